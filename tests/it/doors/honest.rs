//! Honest clients: a device, and a party that calls at its pace.

use super::{Door, in_time, own};
use cli::phone::fresh;
use device::enrolment::EnrolmentCode;
use domain::kernel::{Clock as _, DeviceId, Purpose, Role};
use domain::operation::Change;
use prost::Message as _;
use proto::device::v1 as pb;
use proto::device::v1::device_service_client::DeviceServiceClient;
use runtime::clock::SystemClock;
use runtime::pki::{IssuedKey, new_request};
use runtime::tls::ClientTls;
use seal::batch::DeviceKey;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Status;
use tonic::transport::Channel;

/// An enrolled device.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) tls: ClientTls,
    /// In DER.
    pub(crate) certificate: Vec<u8>,
    pub(crate) channel: Channel,
    key: DeviceKey,
}

impl Device {
    pub(crate) async fn enrol(door: &Door, role: Role) -> Self {
        let code = EnrolmentCode::parse(&door.code(role)).unwrap();
        let (key_der, request) = new_request().unwrap();
        let channel = door.channel(&door.nobody());
        let request = code.request(request, "test");
        let answer = in_time(DeviceServiceClient::new(channel).enrol(request)).await.unwrap();
        let answer = answer.into_inner();
        let key = DeviceKey::from_pkcs8(key_der.expose()).unwrap();
        let chain_der: Vec<_> = answer.certificate_chain.iter().map(|der| der.to_vec()).collect();
        let certificate = chain_der[0].clone();
        let tls = door.client(Some(&IssuedKey { chain_der, key_der }));
        let id = DeviceId::from_slice(&answer.device_id).unwrap();
        Self { id, channel: door.channel(&tls), tls, certificate, key }
    }

    pub(crate) fn service(&self) -> DeviceServiceClient<Channel> {
        DeviceServiceClient::new(self.channel.clone())
            .max_decoding_message_size(64 * 1_024 * 1_024)
            .max_encoding_message_size(64 * 1_024 * 1_024)
    }

    /// A batch of fresh reports, signed.
    pub(crate) fn batch(&self, count: usize, text: &str) -> pb::PushRequest {
        let reports = (1..=count).map(|seq| self.report(seq as u64, text)).collect();
        self.sign(&self.unsigned(reports))
    }

    pub(crate) fn unsigned(&self, operations: Vec<pb::Operation>) -> pb::Batch {
        pb::Batch {
            region_id: own().to_string(),
            device_id: self.id.as_bytes().to_vec().into(),
            send_time: Some(proto::convert::kernel::encode_time(SystemClock.now())),
            operations,
        }
    }

    pub(crate) fn sign(&self, batch: &pb::Batch) -> pb::PushRequest {
        self.sign_bytes(batch.encode_to_vec())
    }

    /// Signs what may be no batch.
    pub(crate) fn sign_bytes(&self, batch: Vec<u8>) -> pb::PushRequest {
        let signature = self.key.sign(&batch).into();
        pb::PushRequest { signed_batch: Some(pb::SignedBatch { batch: batch.into(), signature }) }
    }

    pub(crate) fn report(&self, device_seq: u64, text: &str) -> pb::Operation {
        let change = Change::ReportEvent(crate::harness::event(text));
        pb::Operation::from(&fresh(device_seq, change))
    }

    pub(crate) async fn push(&self, request: pb::PushRequest) -> Result<pb::PushResponse, Status> {
        Ok(in_time(self.service().push(request)).await?.into_inner())
    }

    pub(crate) async fn pull(&self, request: pb::PullRequest) -> Result<pb::PullResponse, Status> {
        Ok(in_time(self.service().pull(request)).await?.into_inner())
    }

    pub(crate) async fn watch(&self) -> Result<tonic::Streaming<pb::WatchResponse>, Status> {
        let purpose = Purpose::Duty.code();
        let request = pb::WatchRequest { cursor: None, purpose, kinds: Vec::new() };
        Ok(in_time(self.service().watch(request)).await?.into_inner())
    }
}

/// An honest party that calls again and again while a test does its part.
pub(crate) struct Pace {
    stop: watch::Sender<bool>,
    task: JoinSet<Vec<(Instant, Duration)>>,
}

impl Pace {
    /// Calls each few milliseconds. Every call must be answered, or it panics when it is asked.
    pub(crate) async fn start(door: &std::sync::Arc<Door>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (door, mut task) = (std::sync::Arc::clone(door), JoinSet::new());
        let channel = door.channel(&door.somebody().await);
        assert!(in_time(door.call(&channel)).await, "the honest party is not answered at all");
        task.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(4));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut took = Vec::new();
            while !*stopped.borrow() {
                ticks.tick().await;
                let began = Instant::now();
                assert!(in_time(door.call(&channel)).await, "an honest call was refused");
                took.push((began, began.elapsed()));
            }
            took
        });
        Self { stop, task }
    }

    /// Ends it; gives how long calls took until `turn` and after it: the longest of 99 in a hundred.
    pub(crate) async fn p99(mut self, turn: Instant) -> (Duration, Duration) {
        self.stop.send_replace(true);
        let took = in_time(self.task.join_next()).await.unwrap().unwrap();
        let part = |after: bool| {
            let mut part: Vec<Duration> = took
                .iter()
                .filter(|(began, _)| (*began >= turn) == after)
                .map(|(_, took)| *took)
                .collect();
            part.sort();
            part[(part.len() - 1) * 99 / 100]
        };
        (part(false), part(true))
    }
}
