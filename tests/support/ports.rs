//! Ports for servers of a test.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// Ports in a row that nobody listens on, and that no other test of this run is given. They lie below those that the
/// kernel hands out by itself (`ip_local_port_range`), so that no client takes one in between.
pub fn free_ports_in_a_row(count: u16) -> u16 {
    const RANGE: std::ops::Range<u16> = 10_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two runs at the same time begin at different places.
    let begin = u16::try_from(std::process::id() % 200).unwrap() * 100;
    for _ in 0..RANGE.len() {
        let offset =
            begin.wrapping_add(NEXT.fetch_add(count, Ordering::Relaxed)) % (RANGE.end - RANGE.start - count);
        let first = RANGE.start + offset;
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} ports in a row are free in {RANGE:?}");
}

/// Some such ports.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let count = u16::try_from(N).unwrap();
    let first = free_ports_in_a_row(count);
    std::array::from_fn(|index| first + u16::try_from(index).unwrap())
}
