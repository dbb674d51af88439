//! Configuration for Dovecot and Postfix, rendered, and the private stack made of it.
//!
//! - [`render`]: the fragments that make an existing Dovecot and Postfix serve what the maps say.
//! - [`whole`]: the very fragments of [`render`] and a preamble: all that a Dovecot and a Postfix read that have nothing
//!   else to do. So what is tested is what operators get, in whichever way they run their servers.
//! - [`private`]: a private Dovecot and Postfix in one folder, started, supervised and stopped by us.
//! - [`container`]: one of the two, alone in a container.
//! - [`files`]: files that are there whole or not at all.
//! - [`pair`]: a certificate and its key that somebody else may replace at any time.
//! - [`key`]: the key of Dovecot's administration socket.
//! - [`sieve`]: the script that files messages to Junk, compiled.
//! - [`tls`]: a private certificate authority and a server certificate.
//!
//! Nothing here reads or writes the maps, and nothing here reads or writes what belongs to the system's own
//! Dovecot and Postfix.

pub mod container;
pub mod files;
pub mod key;
pub mod pair;
pub mod private;
mod probe;
mod process_group;
mod queue;
pub mod render;
pub mod sieve;
pub mod tls;
pub mod whole;

pub use private::{PrivateStack, Settings, check_folder};
pub use render::{DovecotVersion, MailPlane, RenderedFile};
