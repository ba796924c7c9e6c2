//! A phone trades a one-time code for a certificate.

use crate::hosted::Hosted;
use crate::status::{refuse, refuse_field, unwritten};
use bytes::Bytes;
use domain::kernel::{DeviceId, Reason};
use proto::device::v1::{EnrolRequest, EnrolResponse};
use runtime::identity::Identity;
use runtime::pki::{self, Validity};
use storage::region::{EnrolVerdict, Enrolment};
use tonic::Status;

/// Days a device's certificate is good for.
const CERTIFICATE_DAYS: i64 = 30;
/// Bounds of the contract.
const REQUEST_BYTES_MAX: usize = 4_096;
const MODEL_BYTES_MAX: usize = 64;

/// Enrols a phone.
pub(crate) async fn enrol(region: &Hosted, request: EnrolRequest) -> Result<EnrolResponse, Status> {
    if !(16..=64).contains(&request.code.len()) {
        return Err(refuse_field("code", "must have 16 to 64 characters"));
    }
    if request.model.len() > MODEL_BYTES_MAX {
        return Err(refuse_field("model", "must have at most 64 bytes"));
    }
    if request.certificate_request.len() > REQUEST_BYTES_MAX {
        return Err(refuse_field("certificate_request", "must have at most 4096 bytes"));
    }
    let public_key = pki::public_key_of_request(&request.certificate_request).map_err(|_| {
        refuse_field(
            "certificate_request",
            "must be a PKCS#10 request with a P-256 key that signed it",
        )
    })?;
    let now = region.now();
    let device_id = DeviceId::mint(now, region.entropy.as_ref());
    let validity = Validity::days(now, CERTIFICATE_DAYS);
    let chain = region
        .authority
        .issue_from_request(
            region.book().linkage(),
            &Identity::Device(region.region().clone(), device_id),
            &request.certificate_request,
            validity,
        )
        .map_err(|_| refuse_field("certificate_request", "no certificate can be made for it"))?;
    let enrolment = Enrolment {
        code_sha256: seal::key::sha256(request.code.as_bytes()),
        device_id,
        public_key: public_key.to_vec(),
        model: request.model,
        expires_at: validity.not_after,
        now,
    };
    match region.store.enrol(enrolment).await.map_err(unwritten)? {
        EnrolVerdict::CodeInvalid => Err(refuse(Reason::EnrolmentCodeInvalid)),
        EnrolVerdict::Enrolled(role) => {
            tracing::info!(region.id = %region.region(), device.id = %device_id, role = role.name(), "device enrolled");
            Ok(EnrolResponse {
                device_id: Bytes::copy_from_slice(device_id.as_bytes()),
                role: role.code(),
                certificate_chain: chain.into_iter().map(Bytes::from).collect(),
                expire_time: Some(proto::convert::kernel::encode_time(validity.not_after)),
                epoch: Bytes::copy_from_slice(region.store.epoch().as_bytes()),
            })
        }
    }
}
