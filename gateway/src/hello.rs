//! The opening of a link: a nonce, and a region that signs it.

use crate::registry::Lanes;
use crate::service::Shared;
use domain::kernel::{Lane, Reason, RegionId};
use proto::exchange::v1::link_response::Frame;
use proto::exchange::v1::{Challenge, LinkRequest, LinkResponse, link_request};
use proto::kernel::v1::SignedObject;
use proto::link::LINK_PROTOCOL;
use seal::signed::{self, Hello};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Where a link's frames go.
pub(crate) type Out = mpsc::Sender<Result<LinkResponse, Status>>;

/// Why a link was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwelcome {
    /// The peer hung up.
    #[error("the peer hung up before its hello")]
    Lost,
    /// The peer said nothing.
    #[error("no hello came in time")]
    Silent,
    /// What it said was no hello.
    #[error("the first frame is no hello")]
    NoHello,
    /// It speaks for a region that is not in the directory.
    #[error("the region is not in the directory")]
    Unknown,
    /// It speaks for a region that was revoked.
    #[error("the region was revoked")]
    Revoked,
    /// Its hello is not good.
    #[error(transparent)]
    Signed(#[from] signed::SignedError),
    /// It speaks another protocol.
    #[error("link protocol {0} is not spoken here, {LINK_PROTOCOL} is")]
    Protocol(u32),
    /// Its certificate is another region's.
    #[error("the certificate is of {0}, the hello of another region")]
    OtherRegion(RegionId),
    /// What its authority has revoked is not known, and it asks for more than alerts.
    #[error(
        "the revocation list of {0} or the linkage's trust is too old, it may have the alert lane alone"
    )]
    Restricted(RegionId),
}

impl Unwelcome {
    /// The code that goes on the wire.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::Lost | Self::Silent | Self::NoHello | Self::Protocol(_) => {
                Reason::ProtocolViolation
            }
            Self::Unknown => Reason::RegionUnknown,
            Self::Revoked => Reason::RegionRevoked,
            Self::Signed(error) => error.reason(),
            Self::OtherRegion(_) | Self::Restricted(_) => Reason::RoleForbidden,
        }
    }
}

/// Challenges a peer and takes its hello; gives the lanes that it may have of those it asks for. `certified`
/// is the region of its certificate, if it showed one.
pub(crate) async fn greet(
    shared: &Shared,
    certified: Option<&RegionId>,
    requests: &mut Streaming<LinkRequest>,
    out: &Out,
) -> Result<(Hello, Lanes), Unwelcome> {
    let mut nonce = [0; 32];
    shared.entropy.fill(&mut nonce);
    let challenge = Challenge {
        nonce: bytes::Bytes::copy_from_slice(&nonce),
        gateway_id: shared.gateway_id.as_str().to_owned(),
    };
    let frame = LinkResponse { frame: Some(Frame::Challenge(challenge)) };
    out.send(Ok(frame)).await.map_err(|_| Unwelcome::Lost)?;
    let deadline = Duration::from_millis(shared.limits.hello_timeout_ms);
    let answer = tokio::time::timeout(deadline, requests.message());
    let answer = answer.await.map_err(|_| Unwelcome::Silent)?.map_err(|_| Unwelcome::Lost)?;
    match answer.ok_or(Unwelcome::Lost)?.frame {
        Some(link_request::Frame::Hello(object)) => check(shared, certified, &object, &nonce),
        _ => Err(Unwelcome::NoHello),
    }
}

fn check(
    shared: &Shared,
    certified: Option<&RegionId>,
    object: &SignedObject,
    nonce: &[u8; 32],
) -> Result<(Hello, Lanes), Unwelcome> {
    let signer = signed::signer(object)?;
    let trust = shared.book.trust();
    let listed = trust.directory.regions.get(&signer).ok_or(Unwelcome::Unknown)?;
    // Who was away when its own change was published signs with the former key until it has heard of it, here.
    let key = trust.key_of(&signer, signed::key_id_of(object), shared.clock.now());
    let key = key.unwrap_or(listed.signing_key);
    let hello = Hello::verify(object, &key, nonce, &shared.gateway_id)?;
    if trust.is_revoked(listed) {
        return Err(Unwelcome::Revoked);
    }
    if hello.protocol != LINK_PROTOCOL {
        return Err(Unwelcome::Protocol(hello.protocol));
    }
    match certified {
        Some(region) if *region != hello.region => {
            return Err(Unwelcome::OtherRegion(region.clone()));
        }
        _ => {}
    }
    let asked = Lanes::of(&hello.lanes);
    if !shared.is_restricted(&hello.region) {
        return Ok((hello, asked));
    }
    if !asked.contains(Lane::Alert) {
        return Err(Unwelcome::Restricted(hello.region));
    }
    // Without credit on its other lanes it sends nothing there and waits.
    Ok((hello, Lanes::of(&[Lane::Alert])))
}
