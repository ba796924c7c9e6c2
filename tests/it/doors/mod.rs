//! One server as a process of its own, with limits that a test chooses, and honest clients of it: what a
//! bad client does is measured by what becomes of these.

pub(crate) mod frames;
mod honest;

pub(crate) use frames::Raw;
pub(crate) use honest::{Device, Pace};

use crate::harness::{
    A, COUNTY, Process, free_port, gateway_config, region, region_config, set_up,
};
use cli::linkage;
use domain::kernel::{Clock as _, DeviceId, LinkageId, RegionId, Role};
use proto::exchange::v1 as exchange;
use proto::exchange::v1::exchange_service_client::ExchangeServiceClient;
use runtime::channel::{Limits, channel};
use runtime::clock::{SystemClock, SystemEntropy};
use runtime::config::Secret;
use runtime::identity::Identity;
use runtime::pki::{Authority, IssuedKey, Validity};
use runtime::tls::{Anchor, ClientTls};
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Mutex;
use tonic::transport::Channel;

/// Longest any awaited thing in a test of one server may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

/// Which server's door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A region's, for phones.
    Device,
    /// A gateway's, for regions.
    Peer,
}

/// A server, its folder, and a way in.
pub(crate) struct Door {
    pub(crate) class: Class,
    pub(crate) process: Process,
    pub(crate) dir: tempfile::TempDir,
}

impl Door {
    /// Starts a server with these limits, as its configuration says them; the others have their default.
    pub(crate) async fn open(class: Class, limits: &str) -> Self {
        // One at a time: a process that is being started holds for a moment every lock that this one
        // holds, and the set-up opens its folders again and again.
        static ALONE: Mutex<()> = Mutex::const_new(());
        let _alone = ALONE.lock().await;
        let dir = tempfile::tempdir().unwrap();
        set_up(dir.path()).await;
        let port = free_port();
        let (name, config, table) = match class {
            // Its gateway does not run: links are dialled again and again, which harms nobody.
            Class::Device => {
                let config = region_config(dir.path(), "a", port, free_port());
                ("wuling-region", config, "device")
            }
            Class::Peer => ("wuling-gateway", gateway_config(dir.path(), port), "peer"),
        };
        let mut text = std::fs::read_to_string(&config).unwrap();
        text += &format!("[limits.{table}]\n{limits}\n");
        std::fs::write(&config, text).unwrap();
        let process = Process::start(name, &config, port, &dir.path().join("log")).await;
        Self { class, process, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A client without a certificate.
    pub(crate) fn nobody(&self) -> ClientTls {
        self.client(None)
    }

    /// A client with the certificate of an honest party; of a device the region must first hear.
    pub(crate) async fn somebody(&self) -> ClientTls {
        match self.class {
            Class::Device => Device::enrol(self, Role::DutyOfficer).await.tls,
            Class::Peer => self.region_client(A),
        }
    }

    /// A client with a certificate of this region.
    pub(crate) fn region_client(&self, id: &str) -> ClientTls {
        self.client(Some(&self.region_key(id, Validity::days(SystemClock.now(), 7))))
    }

    /// What this region's authority signs for its server.
    pub(crate) fn region_key(&self, id: &str, validity: Validity) -> IssuedKey {
        let identity = Identity::Region(region(id));
        self.authority(id).issue_server(&linkage(), &identity, &[], &[], validity).unwrap()
    }

    /// This region's authority.
    pub(crate) fn authority(&self, id: &str) -> Authority {
        let data = if id == A || id == COUNTY { "a" } else { "b" };
        read_authority(&self.path(data).join("regions").join(id))
    }

    pub(crate) fn client(&self, own: Option<&IssuedKey>) -> ClientTls {
        let (server, authority) = match self.class {
            Class::Device => (Identity::Region(region(A)), self.authority(A)),
            Class::Peer => {
                let id = "gateway-1".parse().unwrap();
                (Identity::Gateway(id), read_authority(&self.path("gateway/gateway")))
            }
        };
        let anchor = Anchor::Certificate(authority.certificate_der());
        ClientTls::new(&linkage(), server, anchor, own).unwrap()
    }

    /// A channel over this client, which dials with the first call.
    pub(crate) fn channel(&self, tls: &ClientTls) -> Channel {
        let patience = match self.class {
            Class::Device => Limits::DEVICE,
            Class::Peer => Limits::PEER,
        };
        channel(&self.endpoint(), tls.clone(), patience).unwrap()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.process.port)
    }

    /// A call that an honest party makes; whether it was answered.
    pub(crate) async fn call(&self, channel: &Channel) -> bool {
        match self.class {
            Class::Device => crate::harness::try_pull_all(channel).await.is_ok(),
            Class::Peer => {
                let mut service = ExchangeServiceClient::new(channel.clone());
                let request = exchange::FetchRequest::default();
                let answer = service.fetch(request).await;
                answer.is_err_and(|status| status.code() == tonic::Code::InvalidArgument)
            }
        }
    }

    /// Whether a new connection comes to speak HTTP/2; if so, it.
    pub(crate) async fn enter(&self, tls: &ClientTls) -> Option<Raw> {
        let mut raw = in_time(Raw::open(tls, &self.endpoint())).await.ok()?;
        in_time(raw.next()).await?;
        Some(raw)
    }

    /// Whether a new connection with this certificate is let in, within a moment.
    pub(crate) async fn lets_in(&self, tls: &ClientTls) -> bool {
        match self.enter(tls).await {
            Some(mut raw) => in_time(raw.seen()).await,
            None => false,
        }
    }

    /// What the administrator of the region issues.
    pub(crate) fn code(&self, role: Role) -> String {
        let (data, now) = (self.path("a"), SystemClock.now());
        let endpoint = self.endpoint();
        linkage::issue_code(&data, &region(A), role, "unit-1", &endpoint, now, &SystemEntropy)
            .unwrap()
    }

    /// Revokes a device, as the administrator of the region does beside its server.
    pub(crate) fn revoke(&self, device: DeviceId) {
        let store = region::folder::store_path(&self.path("a"), &region(A));
        assert!(storage::region::revoke_device(&store, device, SystemClock.now()).unwrap());
    }

    /// Kilobytes that the process holds in memory.
    pub(crate) fn rss_kib(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.process.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
    }

    /// Ticks of a hundredth of a second that the process has worked.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).unwrap();
        // The name, in brackets, may hold spaces.
        let after = stat.rsplit(')').next().unwrap();
        let field = |at: usize| after.split_whitespace().nth(at).unwrap().parse::<u64>().unwrap();
        field(11) + field(12)
    }

    /// Files that the process has open.
    pub(crate) fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.pid())).unwrap().count()
    }

    /// Sockets that the process has open. Its store opens files when it first needs them.
    pub(crate) fn sockets(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.process.pid())).unwrap();
        let target = |file: std::io::Result<DirEntry>| std::fs::read_link(file.ok()?.path()).ok();
        open.filter_map(target).filter(|to| to.to_string_lossy().starts_with("socket:")).count()
    }

    /// Waits until the process works less than a fifth of the time.
    pub(crate) async fn calm(&self, within: Duration) {
        let window = Duration::from_millis(500);
        let calm = async {
            loop {
                let before = self.cpu_ticks();
                tokio::time::sleep(window).await;
                if self.cpu_ticks() - before <= 10 {
                    return;
                }
            }
        };
        tokio::time::timeout(within, calm).await.expect("the server is still at work");
    }
}

pub(crate) fn linkage() -> LinkageId {
    "wuling-test".parse().unwrap()
}

/// The region whose server is the device door.
pub(crate) fn own() -> RegionId {
    region(A)
}

pub(crate) fn read_authority(dir: &Path) -> Authority {
    let certificate = std::fs::read_to_string(dir.join("authority.crt")).unwrap();
    let key = Secret::new(std::fs::read_to_string(dir.join("authority.key")).unwrap());
    Authority::from_pem(&certificate, &key).unwrap()
}

/// The reason in a refusal's details.
pub(crate) fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// A fresh id, as the wire has it.
pub(crate) fn uuid() -> bytes::Bytes {
    let id = domain::kernel::RecordId::mint(SystemClock.now(), &SystemEntropy);
    bytes::Bytes::copy_from_slice(id.as_bytes())
}
