//! Configuration for Dovecot and Postfix, rendered, and the private stack made of it.
//!
//! - [`render`]: the fragments that make an existing Dovecot and Postfix serve what the maps say.
//! - [`private`]: a whole private Dovecot and Postfix in one folder, started, supervised and stopped by us; its
//!   configuration is the very fragments of [`render`] and a preamble, so that what is tested is what operators get.
//! - [`files`]: files that are there whole or not at all.
//! - [`key`]: the key of Dovecot's administration socket.
//! - [`tls`]: a private certificate authority and a server certificate.
//!
//! Nothing here reads or writes the maps, and nothing here reads or writes what belongs to the system's own
//! Dovecot and Postfix.

pub mod files;
pub mod key;
pub mod private;
pub mod render;
pub mod tls;

pub use private::{PrivateStack, Settings, check_folder};
pub use render::{DovecotVersion, MailPlane, RenderedFile};
