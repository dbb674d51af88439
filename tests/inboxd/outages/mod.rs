//! What runs out, is held by others or goes away while callers are at work: the daemon refuses for a while, keeps what it
//! promised, and goes on by itself when things are as they were.

mod descriptors;
mod disks;
mod second_daemon;
mod stores;

/// Callers at the same time.
const CALLERS: usize = 6;
/// Inboxes created, or requests refused, before a test looks whether that goes on.
const SOME: usize = 15;
