//! Makes requests fit to be sent to an upstream: first everything goes that a client must not say, then we say it.
//! In: request heads, who asks, how they came. Out: [`Outbound`], the only thing that is sent. Errors: [`CleanFault`],
//! [`HeaderFault`]. I/O: none.

mod clean;
mod identity_headers;
mod names;
mod outbound;
mod query;
mod send;
mod trace;
mod tunnel;

pub use clean::{CleanFault, Cleaned, clean};
pub use identity_headers::{HeaderFault, IdentityHeaders};
pub use names::{Authorization, NameSet, OwnedNames, OwnedParameters, folded};
pub use outbound::{ForwardedChain, Outbound, Via};
pub use send::{Answer, ForwardError, HostRule, TokenHeader, Tunnels, Upstream, UpstreamSettings};
pub use trace::{NewTrace, Sampled};
pub use tunnel::tunnel;

#[cfg(test)]
mod hostile;
