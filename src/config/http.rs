//! `[http]`: what callers of the API may use up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::http::{self, Connections};

section! {
    /// Connections to the API.
    Http {
        /// Most connections at a time.
        connections_max: u32 = 2048,
        /// Most connections at a time from one client address.
        connections_per_address_max: u32 = 1024,
        /// Seconds that a connection without a request is kept open.
        keep_alive_s: u32 = 60,
        /// Seconds within which the caller has to take an answer.
        write_timeout_s: u32 = 30,
    }
}

impl Http {
    /// Checks the section.
    pub(super) fn settings(&self) -> Result<http::Settings, Error> {
        const SECONDS_MAX: u32 = 3600;
        if self.connections_max == 0 {
            return Err(Error::value("http.connections_max", "must be at least 1"));
        }
        if !(1..=self.connections_max).contains(&self.connections_per_address_max) {
            let rule = format!("must be 1 to {} (http.connections_max)", self.connections_max);
            return Err(Error::value("http.connections_per_address_max", rule));
        }
        let seconds = |key, seconds: u32| {
            if (1..=SECONDS_MAX).contains(&seconds) {
                Ok(Duration::from_secs(seconds.into()))
            } else {
                Err(Error::value(key, format!("must be 1 to {SECONDS_MAX}")))
            }
        };
        Ok(http::Settings {
            connections: Connections {
                max: self.connections_max as usize,
                per_address_max: self.connections_per_address_max as usize,
                keep_alive: seconds("http.keep_alive_s", self.keep_alive_s)?,
                write_timeout: seconds("http.write_timeout_s", self.write_timeout_s)?,
            },
        })
    }
}
