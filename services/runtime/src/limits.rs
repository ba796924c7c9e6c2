//! How much each class of peer may take: one table, read from the configuration over its defaults.

use crate::conduct::Conduct;
use crate::config::Check;
use crate::metrics::Calls;
use serde::Deserialize;
use std::time::Duration;
use tonic::transport::Server;
use tower::layer::util::{Identity, Stack};

/// What every call goes through, the last first.
pub type Layers = Stack<Conduct, Stack<Calls, Identity>>;

/// A row: name, allowed values, then the default for devices, peers and the console.
macro_rules! table {
    ($($(#[$doc:meta])* $name:ident [$min:literal, $max:literal] $device:literal, $peer:literal, $console:literal;)*) => {
        /// What one class of peer may take at one port.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Limits {
            $($(#[$doc])* pub $name: u32,)*
        }

        /// What a configuration says of them; what it leaves out has its default.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Given {
            $($name: Option<u32>,)*
        }

        impl Limits {
            /// For a port that phones connect to.
            pub const DEVICE: Self = Self { $($name: $device,)* };

            /// For a port that regions connect to.
            pub const PEER: Self = Self { $($name: $peer,)* };

            /// For a port that browsers connect to.
            pub const CONSOLE: Self = Self { $($name: $console,)* };
        }

        impl Given {
            fn filled(&self, defaults: Limits) -> Limits {
                Limits { $($name: self.$name.unwrap_or(defaults.$name),)* }
            }

            fn check(&self, table: &str, check: &mut Check) {
                $(if let Some(value) = self.$name && !($min..=$max).contains(&value) {
                    let key = format!("{table}.{}", stringify!($name));
                    check.mistake(&key, format_args!("{value} is not within {} to {}", $min, $max));
                })*
            }
        }
    };
}

table! {
    /// Longest handshake, and longest wait for the first bytes after it, in milliseconds.
    handshake_timeout_ms [1, 600_000] 20_000, 5_000, 10_000;
    /// Handshakes at a time. One more pushes out the oldest: a silent peer waits, an honest one is
    /// through within a few round trips.
    handshakes_pending_max [1, 65_536] 256, 64, 128;
    /// Handshakes at a time from one address; 0 sets no cap, as behind a front door, where many
    /// peers share one.
    handshakes_per_ip_max [0, 65_536] 0, 0, 16;
    /// Connections at a time, handshakes included. One more is closed at once.
    connections_max [1, 1_000_000] 4_096, 4_096, 512;
    /// Connections of one identity. One more closes the oldest.
    connections_per_identity_max [1, 1_024] 2, 4, 8;
    /// Calls at a time on a connection. One more is refused by HTTP/2.
    streams_per_connection_max [1, 65_536] 8, 32, 64;
    /// Calls of a connection that wait for their answer's start. One more is refused as too many.
    calls_per_connection_max [1, 65_536] 16, 64, 64;
    /// Longest wait of a call for its answer, or for a stream's start, in milliseconds.
    call_timeout_ms [1, 3_600_000] 30_000, 10_000, 10_000;
    /// Silence on a stream, and on a connection, after which a sign of life is sent, in milliseconds.
    stream_keepalive_ms [1, 3_600_000] 240_000, 2_000, 30_000;
    /// Longest wait for the answer to a connection's sign of life, in milliseconds.
    ping_timeout_ms [1, 3_600_000] 20_000, 4_000, 20_000;
    /// Silence of a peer on a stream, and longest wait for it to take what was sent, in milliseconds.
    stream_idle_ms [1, 86_400_000] 900_000, 6_000, 150_000;
    /// Age at which a connection is asked to end, in milliseconds: a certificate is shown but once.
    connection_age_ms [1, 604_800_000] 7_200_000, 86_400_000, 36_000_000;
    /// Time that a connection asked to end has for it, in milliseconds.
    connection_grace_ms [1, 3_600_000] 60_000, 60_000, 60_000;
    /// Bytes of a message, decompressed.
    message_bytes_max [1_024, 4_194_304] 262_144, 1_048_576, 262_144;
    /// Bytes of a batch that a phone signed.
    batch_bytes_max [1_024, 1_048_576] 1_048_576, 1_048_576, 1_048_576;
    /// Bytes of an answer.
    answer_bytes_max [1_024, 16_777_216] 4_194_304, 4_194_304, 4_194_304;
    /// Bytes of a call's headers, decompressed.
    headers_bytes_max [1_024, 65_536] 8_192, 8_192, 8_192;
    /// Calls that a peer opened and gave up before they were looked at; one more ends the connection.
    resets_pending_max [1, 1_000_000] 20, 20, 20;
    /// Calls that broke HTTP/2; one more ends the connection.
    resets_local_max [1, 1_000_000] 64, 64, 64;
    /// Calls that a peer gives up in a minute; one more ends the connection.
    resets_per_minute_max [1, 2_000_000_000] 600, 600, 600;
    /// Bytes of one call that wait to be read.
    stream_window_bytes [65_535, 2_147_483_647] 131_072, 1_048_576, 262_144;
    /// Bytes of all calls of a connection that wait to be read.
    connection_window_bytes [65_535, 2_147_483_647] 524_288, 4_194_304, 1_048_576;
}

impl Given {
    /// The limits of the table of this name, its mistakes noted.
    pub fn over(&self, defaults: Limits, table: &str, check: &mut Check) -> Limits {
        self.check(table, check);
        let limits = self.filled(defaults);
        for (lesser, name, greater, other) in [
            (
                limits.stream_keepalive_ms,
                "stream_keepalive_ms",
                limits.stream_idle_ms,
                "stream_idle_ms",
            ),
            (
                limits.stream_window_bytes,
                "stream_window_bytes",
                limits.connection_window_bytes + 1,
                "connection_window_bytes",
            ),
        ] {
            if lesser >= greater {
                check.mistake(
                    &format!("{table}.{name}"),
                    format_args!("{lesser} is too much beside {other}"),
                );
            }
        }
        limits
    }
}

impl Limits {
    /// A gRPC server within these limits, whose calls are measured and watched.
    pub fn server(&self, calls: &Calls, conduct: &Conduct) -> Server<Layers> {
        Server::builder()
            .timeout(ms(self.call_timeout_ms))
            .max_concurrent_streams(self.streams_per_connection_max)
            .concurrency_limit_per_connection(self.calls_per_connection_max as usize)
            .load_shed(true)
            .initial_stream_window_size(self.stream_window_bytes)
            .initial_connection_window_size(self.connection_window_bytes)
            // What HTTP/2 calls the most is the first that it refuses.
            .http2_max_header_list_size(self.headers_bytes_max + 1)
            .http2_keepalive_interval(Some(ms(self.stream_keepalive_ms)))
            .http2_keepalive_timeout(Some(ms(self.ping_timeout_ms)))
            .http2_max_pending_accept_reset_streams(Some(self.resets_pending_max as usize))
            .http2_max_local_error_reset_streams(Some(self.resets_local_max as usize))
            // No grace here: with one, tonic cuts off without having asked. `accept::Io` ends what
            // has been asked and does not.
            .max_connection_age(ms(self.connection_age_ms))
            .layer(calls.clone())
            .layer(conduct.clone())
    }

    /// [`Limits::stream_keepalive_ms`].
    pub fn stream_keepalive(&self) -> Duration {
        ms(self.stream_keepalive_ms)
    }

    /// [`Limits::stream_idle_ms`].
    pub fn stream_idle(&self) -> Duration {
        ms(self.stream_idle_ms)
    }

    /// When a connection ends that was asked to.
    pub(crate) fn connection_end(&self) -> Duration {
        ms(self.connection_age_ms) + ms(self.connection_grace_ms)
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        ms(self.handshake_timeout_ms)
    }
}

fn ms(count: u32) -> Duration {
    Duration::from_millis(count.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(text: &str, defaults: Limits) -> Result<Limits, String> {
        let given: Given = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let mut check = Check::default();
        let limits = given.over(defaults, "limits.device", &mut check);
        check.finish().map(|()| limits).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        for defaults in [Limits::DEVICE, Limits::PEER, Limits::CONSOLE] {
            assert_eq!(over("", defaults), Ok(defaults));
            let given = over("connections_max = 7", defaults).expect("good");
            assert_eq!(given, Limits { connections_max: 7, ..defaults });
        }
    }

    #[test]
    fn every_value_out_of_range_is_told() {
        let text = "connections_max = 0\nmessage_bytes_max = 1023\nhandshakes_per_ip_max = 65537\n";
        let said = over(text, Limits::DEVICE).expect_err("three mistakes");
        assert_eq!(said.lines().count(), 3, "{said}");
        assert!(said.contains("limits.device.connections_max: 0 is not within 1 to"), "{said}");
        let text = "connections_max = 1\nmessage_bytes_max = 1024\nhandshakes_per_ip_max = 65536\n";
        over(text, Limits::DEVICE).expect("at the edge");
    }

    #[test]
    fn limits_that_contradict_each_other_are_told() {
        let said = over("stream_idle_ms = 240000\nstream_window_bytes = 524289\n", Limits::DEVICE);
        let said = said.expect_err("two mistakes");
        assert_eq!(said.lines().count(), 2, "{said}");
        over("stream_idle_ms = 240001\nstream_window_bytes = 524288\n", Limits::DEVICE)
            .expect("at the edge");
    }

    #[test]
    fn a_limit_nobody_knows_is_a_mistake() {
        let said = over("connection_max = 7", Limits::PEER).expect_err("a mistake");
        assert!(said.contains("unknown field `connection_max`"), "{said}");
    }
}
