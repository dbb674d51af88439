//! The stack of containers, from outside: over HTTP, IMAP and SMTP on the ports that it publishes.
//!
//! `make test-compose` starts the stack and runs this; it is no part of `make test`, because it needs a container
//! engine. The suite is the one that `tests/inboxd` runs on private stacks. `lifecycle` is about what only containers
//! have: they are restarted, killed, recreated, and their volumes outlive them or do not.
//!
//! All tests share one stack. Those of the suite run beside each other; one of `lifecycle` has the stack to itself
//! (`support::world::World::run_alone`), so any number of threads will do.

mod lifecycle;
#[path = "../suite/mod.rs"]
mod suite;
mod support;
