//! What tests talk to.

#[path = "../../support/api.rs"]
pub mod api;
#[path = "../../support/attempt.rs"]
pub mod attempt;
pub mod compose;
#[path = "../../support/inbox.rs"]
pub mod inbox;
pub mod load;
#[path = "../../support/mail.rs"]
pub mod mail;
#[path = "../../support/ports.rs"]
pub mod ports;
#[path = "../../support/wait.rs"]
pub mod wait;
pub mod world;
