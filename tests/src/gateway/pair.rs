//! One test, several pairs of a client and a gateway.
//!
//! A test is a function that takes a [`Pair`]; [`for_every_pair!`] names it in a table and makes a `#[test]` of it in a
//! module per pair, so that it reads `stock_client_our_host::a_name_resolves`. A function that is in no table is dead code,
//! which the lints refuse. Tests that bring their own client take a [`Kind`] and are named in a [`for_every_host!`].
//!
//! [`for_every_pair!`]: crate::for_every_pair
//! [`for_every_host!`]: crate::for_every_host

use super::{Gateway, Kind};
use crate::{
    enclave::{Enclave, Options},
    peers::Missing,
};

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// [`Kind::Stock`] is `nitrotap enclave` with the loop of the stock clients: one frame per system call.
    client: Kind,
    host: Kind,
}

impl Pair {
    pub const OUR_CLIENT_STOCK_HOST: Self = Self { client: Kind::Ours, host: Kind::Stock };
    pub const OUR_CLIENT_OUR_HOST: Self = Self { client: Kind::Ours, host: Kind::Ours };
    pub const STOCK_CLIENT_OUR_HOST: Self = Self { client: Kind::Stock, host: Kind::Ours };

    /// Starts the gateway of this pair.
    pub fn gateway(self) -> Result<Gateway, Missing> {
        self.host.start()
    }

    /// Whether the host is gvproxy.
    pub fn has_stock_host(self) -> bool {
        self.host == Kind::Stock
    }

    /// How to start the client of this pair.
    pub fn client(self) -> Options {
        match self.client {
            Kind::Ours => Enclave::options(),
            Kind::Stock => Enclave::options().args(&["--frame-loop", "single"]),
        }
    }
}

/// Makes tests of functions that take a [`Pair`]: one per function and pair.
#[macro_export]
macro_rules! for_every_pair {
    ($($test:ident),* $(,)?) => {
        $crate::for_every_pair!(@module our_client_stock_host OUR_CLIENT_STOCK_HOST $($test)*);
        $crate::for_every_pair!(@module our_client_our_host OUR_CLIENT_OUR_HOST $($test)*);
        $crate::for_every_pair!(@module stock_client_our_host STOCK_CLIENT_OUR_HOST $($test)*);
    };
    (@module $module:ident $pair:ident $($test:ident)*) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$test($crate::gateway::pair::Pair::$pair);
            })*
        }
    };
}

/// Makes tests of functions that take the [`Kind`] of a gateway: one per function and kind.
#[macro_export]
macro_rules! for_every_host {
    ($($test:ident),* $(,)?) => {
        $crate::for_every_host!(@module stock_host Stock $($test)*);
        $crate::for_every_host!(@module our_host Ours $($test)*);
    };
    (@module $module:ident $kind:ident $($test:ident)*) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$test($crate::gateway::Kind::$kind);
            })*
        }
    };
}
