//! A phone on the command line: a folder with a store and a key, and the calls between.

use crate::client;
use anyhow::{Context as _, Result};
use device::enrolment::EnrolmentCode;
use device::key::{KeyFile, Sign as _};
use device::{Device, Limits, Report, Store, Window};
use domain::kernel::{Clock, Entropy, OperationId, Reason, RecordId};
use domain::operation::{Change, Operation};
use prost::Message as _;
use proto::convert::kernel::encode_time;
use proto::device::v1 as pb;
use runtime::clock::{SystemClock, SystemEntropy};
use std::path::Path;
use std::sync::Arc;
use tonic::transport::Channel;

/// A phone and its line.
pub struct Phone {
    /// The core: outbox, inbox.
    pub device: Device,
    /// Its key.
    pub key: Arc<KeyFile>,
    channel: Channel,
}

/// What one exchange with the region came to.
#[derive(Debug, Default)]
pub struct Synced {
    /// What became of what was sent.
    pub sent: Report,
    /// Changes that came.
    pub changes: u64,
}

/// Enrols a phone whose files lie in `dir`.
///
/// # Errors
/// When the region refuses, does not answer, or the disk refuses.
pub async fn enrol(dir: &Path, qr: &str) -> Result<()> {
    runtime::tls::install_provider();
    let code = EnrolmentCode::parse(qr)?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let key = KeyFile::open_or_create(&dir.join("device.key"))?;
    let mut store = Store::open(&dir.join("phone.sqlite"))?;
    let request =
        code.request(key.certificate_request()?, concat!("wuling ", env!("CARGO_PKG_VERSION")));
    let answer = client::unknown(&code)?.enrol(request).await.map_err(said)?.into_inner();
    store.enrol(&code, &key.public(), &answer)?;
    Ok(())
}

impl Phone {
    /// Opens an enrolled phone.
    ///
    /// # Errors
    /// When it is not enrolled or its files cannot be read.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self> {
        runtime::tls::install_provider();
        let key = Arc::new(KeyFile::open_or_create(&dir.join("device.key"))?);
        let store = Store::open(&dir.join("phone.sqlite"))?;
        let device = Device::open(store, Arc::<KeyFile>::clone(&key), clock, entropy)?;
        let channel = client::enrolled(device.identity(), &key)?;
        Ok(Self { device, key, channel })
    }

    /// The phone's line.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Signs operations that were never in the outbox, as one batch sent now.
    ///
    /// # Errors
    /// When the keystore does not sign.
    pub fn sign(&self, operations: &[Operation]) -> Result<pb::PushRequest> {
        let identity = self.device.identity();
        let batch = pb::Batch {
            region_id: identity.region_id.to_string(),
            device_id: identity.device_id.as_bytes().to_vec().into(),
            send_time: Some(encode_time(SystemClock.now())),
            operations: operations.iter().map(pb::Operation::from).collect(),
        }
        .encode_to_vec();
        let signature = self.key.sign(&batch)?.into();
        let signed_batch = Some(pb::SignedBatch { batch: batch.into(), signature });
        Ok(pb::PushRequest { signed_batch })
    }

    /// Sends all that waits.
    ///
    /// # Errors
    /// When the region does not answer; what was not answered stays in the outbox.
    pub async fn push(&mut self) -> Result<Report> {
        let mut window = Window::new(Limits::default());
        let mut total = Report::default();
        let mut service = client::device_service(&self.channel);
        while let Some(batch) = self.device.next_batch(&mut window)? {
            let request = pb::PushRequest { signed_batch: Some(batch) };
            let answer = service.push(request).await.map_err(said)?.into_inner();
            total.add(self.device.settle(answer, &mut window)?);
        }
        Ok(total)
    }

    /// Reads all that is new.
    ///
    /// # Errors
    /// When the region does not answer.
    pub async fn pull(&mut self) -> Result<u64> {
        let mut service = client::device_service(&self.channel);
        let mut changes = 0;
        loop {
            let request = pb::PullRequest {
                cursor: Some(self.device.cursor()?),
                page_size: 0,
                purpose: domain::kernel::Purpose::Duty.code(),
                kinds: Vec::new(),
            };
            let page = match service.pull(request).await {
                Err(status) if is_of(&status, Reason::EpochChanged) => {
                    self.device.restart_feed()?;
                    continue;
                }
                answer => answer.map_err(said)?.into_inner(),
            };
            let more = page.more;
            changes += self.device.apply_pull(page)?.changed;
            if !more {
                return Ok(changes);
            }
        }
    }

    /// Sends what waits, reads what is new. What a region that was restored from a copy may have lost waits then,
    /// and is sent again.
    ///
    /// # Errors
    /// When the region does not answer.
    pub async fn sync(&mut self) -> Result<Synced> {
        let mut sent = self.push().await?;
        let changes = self.pull().await?;
        sent.add(self.push().await?);
        Ok(Synced { sent, changes })
    }
}

/// An operation of this moment that makes a record.
pub fn fresh(device_seq: u64, change: Change) -> Operation {
    let now = SystemClock.now();
    Operation {
        operation_id: OperationId::mint(now, &SystemEntropy),
        record_id: RecordId::mint(now, &SystemEntropy),
        parent_ids: Vec::new(),
        base_revision: None,
        occurred_at: now,
        recorded_at: now,
        device_seq,
        author_unit: "unit-1".to_owned(),
        author_ref: None,
        sensitivity: None,
        external_ref: None,
        change,
    }
}

fn is_of(status: &tonic::Status, reason: Reason) -> bool {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().is_some_and(|info| info.reason == reason.name())
}

/// A region's refusal in the words it came with.
pub fn said(status: tonic::Status) -> anyhow::Error {
    use tonic_types::StatusExt as _;
    let message = status
        .get_details_localized_message()
        .map_or_else(|| status.message().to_owned(), |m| m.message);
    match status.get_details_error_info() {
        Some(info) => anyhow::anyhow!("{message} [{}]", info.reason),
        None => anyhow::anyhow!("{message}"),
    }
}
