//! Growing, starting, and the memory that the daemon takes.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::unistd::sync;
use serde_json::json;

use super::{
    bench::Bench,
    http::Connection,
    report::{Column, Took},
};

/// Where an empty folder of maps is named; `maps.dir`.
const MAPS_DIR: &str = "INBOXD_MAPS__DIR";
/// Pause between two tries to connect to a daemon that starts.
const CONNECT_PAUSE_MS: u64 = 1;
/// Lines of /proc/PID/status that are told, and what they are called: now in memory, of that its own and of files, and
/// the most that it ever was.
const MEMORY: [(&str, &str); 4] = [
    ("VmRSS", "resident_kib"),
    ("RssAnon", "resident_anonymous_kib"),
    ("RssFile", "resident_file_kib"),
    ("VmHWM", "resident_max_kib"),
];
const KIB_A_MIB: f64 = 1024.0;

impl Bench<'_> {
    /// Imports as many inboxes as are missing. Leaves the daemon stopped.
    pub async fn grow_to(&mut self, size: usize, column: &mut Column) {
        assert!(self.world.daemon.stop().await.success());
        let missing = size
            .checked_sub(self.inboxes)
            .expect("sizes leave room for what is created at the size before");
        let text = self.seeds.more(missing);
        let mut took = Took::begin();
        let imported = self
            .world
            .daemon
            .run(&["import", "-", "--tenant", &self.seeds.tenant], &text);
        took.end();
        assert!(
            imported.status.success(),
            "{}",
            String::from_utf8_lossy(&imported.stderr)
        );
        self.seeds.count += missing;
        self.inboxes = size;
        let per_second = per_second(missing, took.seconds());
        column.show(
            "`inboxd import`, mailboxes/s",
            format!("{per_second:.0} (n = {missing})"),
        );
        column.keep(
            "import",
            json!({ "n": missing, "seconds": took.seconds(), "per_second": per_second }),
        );
    }

    /// Measures from the start of the process until `/readyz` says that store and maps are right: with everything
    /// right, the same with nothing of it in the page cache, and with no maps at all. Between, everything written anew by
    /// `inboxd maps rebuild`. Leaves the daemon running.
    pub async fn measure_starts(&mut self, column: &mut Column) {
        let warm = self.start().await;
        tell(
            "start with a check of all maps, s",
            "start_warm",
            Some(warm),
            column,
        );

        let mut cold = None;
        if self.scale.drops_caches {
            assert!(self.world.daemon.stop().await.success());
            sync();
            // proc_sys_vm(5): page cache, dentries and inodes. In a container it may be forbidden.
            let dropped = fs::write("/proc/sys/vm/drop_caches", "3");
            let took = self.start().await;
            cold = dropped.is_ok().then_some(took);
        }
        tell("the same, page cache cold, s", "start_cold", cold, column);

        let begun = Instant::now();
        let output = self.world.daemon.run(&["maps", "rebuild"], "");
        let anew = begun.elapsed();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        tell(
            "`inboxd maps rebuild` beside the daemon, s",
            "maps_rebuild",
            Some(anew),
            column,
        );

        // Beside the maps that the mail servers read.
        assert!(self.world.daemon.stop().await.success());
        let elsewhere = self.world.daemon.folder.join("rebuilt");
        fs::create_dir(&elsewhere).unwrap();
        self.world.daemon.environment = vec![(MAPS_DIR, elsewhere.clone().into())];
        let rebuild = self.start().await;
        assert!(self.world.daemon.stop().await.success());
        self.world.daemon.environment.clear();
        fs::remove_dir_all(elsewhere).unwrap();
        tell("start that writes all maps, s", "rebuild", Some(rebuild), column);
        self.start().await;
    }

    async fn start(&mut self) -> Duration {
        let daemon = &mut self.world.daemon;
        let begun = Instant::now();
        daemon.spawn();
        loop {
            assert!(daemon.is_running(), "the daemon ended:\n{}", daemon.log());
            // It listens before it is ready, and answers when it is.
            if let Ok(mut connection) = Connection::try_open(&daemon.base, "").await
                && connection.get("/readyz?parts=store,maps").await == 200
            {
                return begun.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(CONNECT_PAUSE_MS)).await;
        }
    }

    /// Tells how much memory the daemon has now.
    pub fn measure_memory(&self, when: &str, column: &mut Column) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.world.daemon.pid())).unwrap();
        let [now, own, of_files, most] = MEMORY.map(|(line, _)| {
            let value = status
                .lines()
                .find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
            let kib = value.unwrap().trim().strip_suffix(" kB").unwrap();
            kib.parse::<u32>().unwrap()
        });
        let mib = |kib: u32| format!("{:.1}", f64::from(kib) / KIB_A_MIB);
        column.show(
            &format!("memory, MiB, {when}: own + files (most ever)"),
            format!("{} + {} ({})", mib(own), mib(of_files), mib(most)),
        );
        let figures = MEMORY.map(|(_, name)| name.to_owned()).into_iter();
        let figures = figures.zip([now, own, of_files, most].map(|kib| json!(kib)));
        column.keep(&format!("memory_{}", when.replace(' ', "_")), figures.collect());
    }
}

fn tell(line: &str, name: &str, took: Option<Duration>, column: &mut Column) {
    let seconds = took.map(|took| took.as_secs_f64());
    let shown = seconds.map_or_else(|| "not measured".to_owned(), |seconds| format!("{seconds:.2}"));
    column.show(line, shown);
    column.keep(&format!("{name}_seconds"), json!(seconds));
}

#[expect(clippy::cast_precision_loss, reason = "a count is far below 2^52")]
fn per_second(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds
}
