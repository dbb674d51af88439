//! `make bench`: how fast inboxd is, beside what the machine can do. What each line of the table means is in
//! docs/performance.md.
//!
//! One world of its own: a private Dovecot and Postfix, and the daemon as a process beside them. It grows from size to
//! size, and everything is measured at each.

mod creates;
mod http;
mod limits;
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
    creates::Crowd,
    limits::Limits,
    machine::Machine,
    report::{Column, Report},
    scale::Scale,
    support::world::World,
};

// One thread drives all clients: the other cores are for what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let scale = Scale::from_environment();
    World::run(async |world| {
        let machine = Machine::look(world.daemon.folder.path());
        println!("{machine}");
        let limits = Limits::measure(world.daemon.folder.path(), scale.seconds_each);
        println!("{limits}");
        let mut report = Report::new(machine, limits);
        let mut crowd = Crowd::new(world).await;
        for &size in scale.sizes {
            let mut column = Column::of(size);
            crowd.grow_to(size).await;
            crowd.measure(&scale, &limits, &mut column).await;
            report.add(column);
        }
        report.print_and_write();
    })
    .await;
}
