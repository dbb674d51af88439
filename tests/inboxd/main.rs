//! The proof: the real program against real databases, a real Dovecot and a real Postfix.
//!
//! One binary. A test makes its own folder, ports and databases, and stops what it starts. A program that is missing
//! is a failure that says which package has it; `make test` installs them all. Needs root, as mail servers do.

mod api;
mod e2e;
mod law;
mod load;
mod maps;
mod stack;
mod store;
mod support;
