//! A DNS server of a test's own: knot, on loopback, whose zones are changed while it runs.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{RData, RecordType},
};

use super::{free_ports, wait::until};

const KNOTD: &str = "/usr/sbin/knotd";
const KNOTC: &str = "/usr/sbin/knotc";

/// It answers for its zones; for other names it refuses.
pub struct DnsServer {
    dir: tempfile::TempDir,
    address: SocketAddr,
    child: Child,
    /// The number of each zone's state.
    zones: BTreeMap<String, u32>,
}

impl DnsServer {
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("inboxd-dns-").tempdir().unwrap();
        let [port] = free_ports();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        write_config(dir.path(), address, []);
        let log = fs::File::create(dir.path().join("knot.log")).unwrap();
        let child = Command::new(KNOTD)
            .arg("--config")
            .arg(dir.path().join("knot.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("apt-get install knot");
        let mut server = Self {
            dir,
            address,
            child,
            zones: BTreeMap::new(),
        };
        server.set_zone("is-up.test", "").await;
        server
    }

    /// Where it listens, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives a zone these records, in the format of a zone file with names relative to it. When it returns, they are
    /// what is answered.
    pub async fn set_zone(&mut self, zone: &str, records: &str) {
        let serial = self.zones.get(zone).map_or(1, |serial| serial + 1);
        let text = format!(
            "$ORIGIN {zone}.\n$TTL 300\n@ SOA ns.{zone}. hostmaster.{zone}. {serial} 3600 600 86400 300\n@ NS ns.{zone}.\nns A 127.0.0.1\n{records}\n"
        );
        fs::write(self.dir.path().join(format!("{zone}.zone")), text).unwrap();
        self.zones.insert(zone.to_owned(), serial);
        self.reload().await;
        let resolver = self.resolver();
        let name = format!("{zone}.");
        until("the zone is answered", || async {
            let answer = resolver.lookup(name.as_str(), RecordType::SOA).await.ok()?;
            let is_current = |data: &RData| matches!(data, RData::SOA(soa) if soa.serial == serial);
            answer
                .answers()
                .iter()
                .any(|record| is_current(&record.data))
                .then_some(())
        })
        .await;
    }

    /// Makes a zone one of which the server can say nothing (SERVFAIL).
    pub async fn break_zone(&mut self, zone: &str) {
        fs::write(self.dir.path().join(format!("{zone}.zone")), "this is no zone").unwrap();
        // A zone that was good before stays in its memory: it is taken out and put in again.
        let serial = self.zones.remove(zone).unwrap_or_default();
        self.reload().await;
        self.zones.insert(zone.to_owned(), serial);
        self.reload().await;
        let resolver = self.resolver();
        let name = format!("{zone}.");
        until("the zone is broken", || async {
            let answer = resolver.lookup(name.as_str(), RecordType::SOA).await;
            let error = answer.err()?.to_string();
            error.to_ascii_lowercase().contains("fail").then_some(())
        })
        .await;
    }

    async fn reload(&self) {
        write_config(
            self.dir.path(),
            self.address,
            self.zones.keys().map(String::as_str),
        );
        // Its control socket comes a moment after its start.
        until("knot takes its configuration", || async {
            let output = Command::new(KNOTC)
                .arg("--config")
                .arg(self.dir.path().join("knot.conf"))
                .args(["--timeout", "10", "reload"])
                .output()
                .unwrap();
            output.status.success().then_some(())
        })
        .await;
    }

    fn resolver(&self) -> TokioResolver {
        let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = self.address.port();
        }
        let server = NameServerConfig::new(self.address.ip(), true, connections.into());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut options = ResolverOpts::default();
        options.cache_size = 0;
        options.timeout = Duration::from_secs(2);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .unwrap()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_config<'a>(dir: &Path, address: SocketAddr, zones: impl IntoIterator<Item = &'a str>) {
    let place = dir.display();
    let (ip, port) = (address.ip(), address.port());
    let mut text = format!(
        "server:\n    rundir: {place}\n    listen: {ip}@{port}\nlog:\n  - target: stderr\n    any: info\n\
         database:\n    storage: {place}/db\ncontrol:\n    listen: {place}/knot.sock\n\
         template:\n  - id: default\n    storage: {place}\n    file: \"%s.zone\"\n    zonefile-sync: -1\n    zonefile-load: whole\n    journal-content: none\nzone:\n"
    );
    for zone in zones {
        writeln!(text, "  - domain: {zone}").unwrap();
    }
    fs::write(dir.join("knot.conf"), text).unwrap();
}
