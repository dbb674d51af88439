//! The proof: the real program against real databases, a real Dovecot and a real Postfix.
//!
//! A test makes its own folder, ports and databases, and stops what it starts. A program that is missing is a failure
//! that says which package has it; `make test` installs them all. Needs root, as mail servers do.
//!
//! `suite` and part of `support` lie beside this folder: `tests/compose`, the other binary, has them too.

mod api;
mod authors;
mod command_line;
mod dns;
mod e2e;
mod faults;
mod import;
mod import_names;
mod inbound;
mod law;
mod load;
mod maps;
mod outages;
mod power;
mod replaced_hashes;
mod stack;
mod store;
#[path = "../suite/mod.rs"]
mod suite;
mod support;
