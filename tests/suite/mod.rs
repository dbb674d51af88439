//! What holds of every stack, seen from outside: by callers of the API and by clients of the mail servers.
//!
//! Two binaries run these tests, each with a `support::world::World` of its own: `tests/inboxd` starts a private stack
//! for every test, `tests/compose` finds one stack of containers that is up and that all tests share. So a test stops
//! nothing, looks at no file but through its world, and takes every name from it.

mod addresses;
mod crowd;
mod cut_off;
mod doors;
mod identity;
mod mailbox;
mod signing;
pub mod storm;
pub mod verify;
