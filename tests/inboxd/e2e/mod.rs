//! The whole program with its mail servers, where a test stops them or looks inside: what holds without that is in
//! `tests/suite`.

mod bad_days;
mod barrier;
mod custom_domain;
mod damaged_maps;
mod dev;
mod queued;
mod service_manager;
mod shares;
mod signed;
mod signed_forms;
mod stopping;
mod verify;
