//! The `Host` header.

use axum::http::{HeaderMap, HeaderValue, Version, header, uri::Authority};

use super::problem::Problem;

/// Refuses a request of HTTP/1.1 that has not exactly one valid `Host`, and any request that has a wrong one (RFC 9112,
/// 3.2). Which host it names does not matter here.
pub(super) fn check(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let rule = match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => return Ok(()),
        (None, _) => "is required in HTTP/1.1",
        (Some(_), Some(_)) => "must be given once",
        (Some(host), None) if is_valid(host) => return Ok(()),
        (Some(_), None) => "must be a host name or an IP address, and may have a port behind it",
    };
    Err(Problem::invalid("host", rule))
}

/// RFC 9110, 7.2: a host, which must not be empty in an `http` URI (RFC 9110, 4.2.1), and a port, which may be empty.
fn is_valid(value: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(value.as_bytes()) else {
        return false;
    };
    let host = authority.host();
    let Some(port) = authority.as_str().strip_prefix(host) else {
        return false;
    };
    let port = port.strip_prefix(':').unwrap_or(port);
    !host.is_empty() && (port.is_empty() || port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(version: Version, hosts: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_static(host));
        }
        let problem = check(version, &headers).err()?;
        Some(problem.body()["error"].as_str().unwrap().to_owned())
    }

    #[test]
    fn one_host_with_or_without_a_port_is_taken() {
        for host in [
            "a",
            "inbox.example.com",
            "inbox.example.com:8080",
            "inbox.example.com:",
            "127.0.0.1:21000",
            "[::1]",
            "[::1]:8080",
            "a_b.internal",
        ] {
            assert_eq!(refusal(Version::HTTP_11, &[host]), None, "{host}");
        }
        assert_eq!(refusal(Version::HTTP_10, &[]), None);
    }

    #[test]
    fn no_host_two_hosts_and_what_is_no_host_are_refused_by_name() {
        let hosts: [&[&str]; 15] = [
            &[],
            &["a", "b"],
            &["a", "a"],
            &[""],
            &["a b/c"],
            &["a/b"],
            &["http://a"],
            &["user@a"],
            &["a:b"],
            &["a:1:2"],
            &["a:65536"],
            &[":80"],
            &["a, b"],
            &["a?b"],
            &["[::1"],
        ];
        for hosts in hosts {
            let error = refusal(Version::HTTP_11, hosts).unwrap_or_else(|| panic!("{hosts:?} is taken"));
            assert!(error.starts_with("host: "), "{error}");
        }
        assert!(refusal(Version::HTTP_10, &["a", "b"]).is_some());
        assert!(refusal(Version::HTTP_10, &["a b"]).is_some());
    }
}
