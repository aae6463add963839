//! Makes requests fit to be sent to an upstream: first everything goes that a client must not say, then we say it.
//! In: request heads, who asks, how they came. Out: [`Outbound`], the only thing that is sent. Errors: [`CleanFault`],
//! [`HeaderFault`]. I/O: none.

mod clean;
mod frames;
mod guard;
mod http1;
mod http2;
mod identity_headers;
mod names;
mod outbound;
mod query;
mod request_info;
mod send;
mod trace;
mod tunnel;

pub use clean::{CleanFault, Cleaned, clean};
pub use guard::{GUARDED_BODY, Guard, GuardFault};
pub use http1::Http1Fault;
pub use http2::Http2Fault;
pub use identity_headers::{CertificateHeaders, HeaderFault, IdentityHeaders};
pub use names::{Authorization, NameSet, OwnedNames, OwnedParameters, folded};
pub use outbound::{ForwardedChain, Outbound, SeenAs, Via};
pub use request_info::{InfoFault, with_request_info};
pub use send::{Answer, ForwardError, HostRule, Spoken, TokenHeader, Tunnels, Upstream, UpstreamSettings};
pub use trace::{NewTrace, Sampled};
pub use tunnel::{Parting, tunnel};

#[cfg(test)]
mod hostile;
