//! How much is measured: `SCALE` in the environment.

/// Names the scale.
const VARIABLE: &str = "SCALE";

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Numbers of inboxes that there are when each round of measurements begins.
    pub sizes: &'static [usize],
    /// Longest that one measurement goes on, in seconds.
    pub seconds_each: u64,
    /// Creates counted, of one client, of eight, of 64, and of 64 that share a tenant. The smallest size must not grow
    /// into the next.
    pub creates: [usize; 4],
    /// Inboxes that are created and used at once.
    pub first_uses: usize,
    /// Keys that `postmap` is asked for.
    pub postmap_keys: usize,
    /// Whether the machine's page cache may be dropped, to start the daemon cold: it slows everybody else down.
    pub drops_caches: bool,
}

/// Whether the program works; its figures say little.
const QUICK: Scale = Scale {
    sizes: &[200, 2_000],
    seconds_each: 1,
    creates: [50, 100, 200, 100],
    first_uses: 20,
    postmap_keys: 1_000,
    drops_caches: false,
};
/// What anybody measures.
const NORMAL: Scale = Scale {
    sizes: &[1_000, 10_000, 100_000],
    seconds_each: 10,
    creates: [300, 1_200, 3_000, 1_000],
    first_uses: 300,
    postmap_keys: 100_000,
    drops_caches: true,
};
/// The same and a million.
const FULL: Scale = Scale {
    sizes: &[1_000, 10_000, 100_000, 1_000_000],
    ..NORMAL
};

impl Scale {
    /// What the environment asks for.
    pub fn from_environment() -> Self {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("" | "normal") => NORMAL,
            Ok("quick") => QUICK,
            Ok("full") => FULL,
            Ok(other) => panic!("{VARIABLE}={other}: it is quick, normal or full"),
        }
    }
}
