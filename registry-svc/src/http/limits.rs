//! What one client may take of the service, and for how long.

use std::time::Duration;

/// See the module's page.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address (of IPv6: from one /64).
    pub connections_per_client: usize,
    /// How long a connection may be open without a request, its head being sent included.
    pub idle: Duration,
    /// How old a connection becomes before it takes no more requests: certificates are judged when it begins.
    pub age: Duration,
    /// How long the head of a request may take, and a TLS handshake.
    pub head: Duration,
    /// Of a body that waits for its client ...
    pub window: Duration,
    /// ... so many bytes must move in that time.
    pub window_bytes: u64,
    /// Requests at once of an HTTP/2 connection.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_client: 256,
            idle: Duration::from_secs(120),
            age: Duration::from_secs(60 * 60),
            head: Duration::from_secs(30),
            window: Duration::from_secs(60),
            window_bytes: 64 * 1024,
            streams: 64,
        }
    }
}

/// Bytes of a request's target, at most; hyper has no limit of its own below that of the head.
pub const TARGET: usize = 8 * 1024;

/// Bytes of the head of an HTTP/1 request, at most, and of what is read of a body at once.
pub const HEAD: Share = Share {
    all: 4 << 20,
    least: 16 << 10,
    most: 128 << 10,
};

/// Bytes of bodies that an HTTP/2 connection may send ahead, at least what it has by RFC 9113, 6.9.2.
pub const WINDOW: Share = Share {
    all: 8 << 20,
    least: (64 << 10) - 1,
    most: 1 << 20,
};

/// Bytes of an answer that are encrypted ahead of what the network takes.
pub const ENCRYPTED: Share = Share {
    all: 4 << 20,
    least: 16 << 10,
    most: 64 << 10,
};

/// What each connection has of something: much, where there are few connections.
pub struct Share {
    /// Of all together, about.
    all: usize,
    least: usize,
    most: usize,
}

impl Share {
    /// Of one that is opened when there are others.
    pub fn beside(&self, others: usize) -> usize {
        (self.all / (others + 1)).clamp(self.least, self.most)
    }
}

/// Bytes of the headers of an HTTP/2 request, decompressed, at most.
pub const HEADERS: u32 = 32 * 1024;

/// Bytes of answers that wait for each HTTP/2 request until the client takes them, before the next piece is added.
pub const SEND_BUFFER: usize = 16 * 1024;

/// HTTP/2 requests that a client took back before they were looked at, at most (CVE-2023-44487): more, and its
/// connection ends.
pub const RESETS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_much_where_there_are_few_and_all_of_them_are_bounded() {
        for (share, few) in [(HEAD, 32), (WINDOW, 8), (ENCRYPTED, 64)] {
            assert_eq!(share.beside(0), share.most);
            assert_eq!(share.beside(few - 1), share.most);
            assert!(share.beside(few) < share.most);
            assert_eq!(share.beside(1023), share.least);
        }
    }
}
