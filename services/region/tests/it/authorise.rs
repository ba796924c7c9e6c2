//! The authorisation table, asked of the running server: every method, every role.

use crate::world::*;
use domain::kernel::Role;
use region::authorise::{Access, TABLE};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// Calls a method with an empty message, whatever it takes.
async fn call(channel: &Channel, method: &str) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    in_time(grpc.ready()).await.expect("a connection");
    let path = PathAndQuery::try_from(format!("/{method}")).expect("a path");
    let codec = ProstCodec::<(), ()>::default();
    in_time(grpc.server_streaming(Request::new(()), path, codec)).await.map(drop)
}

/// The reason why a call was refused; empty when it was not.
async fn refusal(channel: &Channel, method: &str) -> String {
    call(channel, method).await.err().map(|status| reason(&status)).unwrap_or_default()
}

#[tokio::test]
async fn every_method_is_refused_to_exactly_the_roles_without_it() {
    let world = World::new().await;
    for role in Role::ALL {
        let device = world.phone("xiaonanhai", *role).await;
        for (method, access) in TABLE {
            let may = match access {
                Access::Anybody => true,
                Access::Roles(roles) => roles.contains(role),
                Access::Neighbours => false,
            };
            let refused = refusal(&device.channel, method).await == "ROLE_FORBIDDEN";
            assert_eq!(refused, !may, "{method} as {}", role.name());
        }
    }
}

#[tokio::test]
async fn without_a_certificate_only_enrolment_and_signed_batches_are_heard() {
    let world = World::new().await;
    let channel = world.channel("xiaonanhai", None);
    for (method, access) in TABLE {
        let refused = refusal(&channel, method).await == "CERTIFICATE_REQUIRED";
        assert_eq!(refused, *access != Access::Anybody, "{method}");
    }
}

#[tokio::test]
async fn a_revoked_device_may_nothing() {
    let world = World::new().await;
    let device = world.officer().await;
    world.revoke(&device);
    for (method, access) in TABLE.iter().filter(|(_, access)| matches!(access, Access::Roles(_))) {
        let status = call(&device.channel, method).await.expect_err("refused");
        // By name, or, once the server has noticed, by its door, which gives no details.
        let refused = status.details().is_empty() || reason(&status) == "DEVICE_REVOKED";
        assert!(refused, "{method} {access:?}: {status}");
    }
}
