//! `make bench`: how fast inboxd is, beside what the machine can do. What each line of the table means is in
//! docs/performance.md.
//!
//! One world of its own: a private Dovecot and Postfix, and the daemon as a process beside them. It grows from size to
//! size, and everything is measured at each.

mod bench;
mod creates;
mod first_use;
mod http;
mod life;
mod limits;
mod lookups;
mod machine;
mod report;
mod scale;
#[path = "../../tests/inboxd/support/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "what tests start and talk to is more than is measured here"
)]
mod support;

use self::{
    bench::Bench,
    limits::Limits,
    machine::Machine,
    report::{Column, Report},
    scale::Scale,
    support::world::World,
};

/// The clients call as fast as they can.
const NO_QUOTAS: &str = "rates.address_reads_per_minute = 0\nrates.address_writes_per_minute = 0\n\
                         rates.key_reads_per_minute = 0\nrates.key_writes_per_minute = 0";

// One thread drives all clients: the other cores are for what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let scale = Scale::from_environment();
    World::run_with(NO_QUOTAS, async |world| {
        let folder = world.daemon.folder.path();
        let machine = Machine::look(folder);
        let limits = Limits::measure(folder, scale.seconds_each);
        println!("{machine}{limits}");
        let mut report = Report::new(machine, limits);
        let mut bench = Bench::new(world, scale, limits).await;
        for &size in scale.sizes {
            let mut column = Column::of(size);
            bench.grow_to(size, &mut column).await;
            bench.measure_starts(&mut column).await;
            bench.measure_memory("idle", &mut column);
            bench.measure_lookups(&mut column).await;
            bench.measure_creates(&mut column).await;
            Box::pin(bench.measure_first_uses(&mut column)).await;
            bench.measure_memory("after the load", &mut column);
            report.add(column);
        }
        // Disks of virtual machines have moods: if these differ much from the first, the figures between mean little.
        let folder = bench.world.daemon.folder.path();
        report.end(Limits::measure(folder, scale.seconds_each));
        report.print_and_write();
    })
    .await;
}
