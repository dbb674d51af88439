//! Never lost, never half: every step of every operation fails or is the last one, the daemon is killed under load, and
//! its clock jumps. See `docs/faults.md`.

mod shim;
