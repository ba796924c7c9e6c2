//! Calls to a region's server, as a phone or a desk makes them.

use anyhow::{Context as _, Result};
use device::enrolment::{EnrolmentCode, Identity};
use device::key::KeyFile;
use domain::kernel::{LinkageId, RegionId};
use proto::agreement::v1::agreement_service_client::AgreementServiceClient;
use proto::agreement::v1::transfer_service_client::TransferServiceClient;
use proto::device::v1::device_service_client::DeviceServiceClient;
use proto::directory::v1::directory_service_client::DirectoryServiceClient;
use runtime::channel::{Limits, channel};
use runtime::config::Secret;
use runtime::identity::identity_of;
use runtime::pki::IssuedKey;
use runtime::tls::{Anchor, ClientTls};
use tonic::transport::Channel;

/// Answers hold a page of changes.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A channel for a phone that has nothing but a code.
///
/// # Errors
/// When the code's endpoint cannot be dialled.
pub fn unknown(code: &EnrolmentCode) -> Result<DeviceServiceClient<Channel>> {
    let anchor = Anchor::Fingerprint(code.authority_sha256);
    let channel = dial(&code.linkage_id, &code.region_id, &code.endpoint, anchor, None)?;
    Ok(DeviceServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// A channel for an enrolled device.
///
/// # Errors
/// When its certificate or endpoint cannot be used.
pub fn enrolled(identity: &Identity, key: &KeyFile) -> Result<Channel> {
    let leaf = identity.certificate_chain.first().context("the device has no certificate")?;
    let (linkage, _) = identity_of(leaf)?;
    let own = IssuedKey {
        chain_der: identity
            .certificate_chain
            .iter()
            .map(|certificate| certificate.to_vec())
            .collect(),
        key_der: Secret::new(key.pkcs8()),
    };
    let anchor = Anchor::Certificate(&identity.authority_certificate);
    dial(&linkage, &identity.region_id, &identity.endpoint, anchor, Some(&own))
}

/// The phone's service on a channel.
pub fn device_service(channel: &Channel) -> DeviceServiceClient<Channel> {
    DeviceServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// The agreements' service on a channel.
pub fn agreement_service(channel: &Channel) -> AgreementServiceClient<Channel> {
    AgreementServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// The service of records that change hands, on a channel.
pub fn transfer_service(channel: &Channel) -> TransferServiceClient<Channel> {
    TransferServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// The directory's service on a channel.
pub fn directory_service(channel: &Channel) -> DirectoryServiceClient<Channel> {
    DirectoryServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
}

fn dial(
    linkage: &LinkageId,
    region: &RegionId,
    endpoint: &str,
    anchor: Anchor<'_>,
    own: Option<&IssuedKey>,
) -> Result<Channel> {
    let server = runtime::identity::Identity::Region(region.clone());
    let tls = ClientTls::new(linkage, server, anchor, own)?;
    Ok(channel(endpoint, tls, Limits::DEVICE)?)
}
