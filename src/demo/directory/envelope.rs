//! The two envelopes every answer of the directory comes in.
//! In: what was asked for, or why not. Out: an HTTP answer. Errors: none. I/O: none.
//! Source: OpenAge `express-api` (`helpers/errors.js` for codes and statuses, `middlewares/request.js` for the shape).

use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use crate::demo::exchange::{Answer, BodyFault, json};

/// Why the directory does not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request cannot be understood; the text says what is wrong with it.
    BadRequest(&'static str),
    /// The body could not be read.
    Body(BodyFault),
    /// Wrong name or password; which of them is not said.
    Credentials,
    /// A token is missing, or was not made here for this use.
    InvalidToken,
    /// The token's time, or its session, is over.
    SessionExpired,
    /// The token is somebody else's.
    AccessDenied,
    /// No session and no user goes by this id.
    NoSuchUser,
    /// Everything this id names has already ended.
    NoActiveSessions,
    /// No such path.
    NotFound,
    /// The path exists, the method does not.
    Method,
    /// The system gave no random numbers or the token could not be signed.
    Unknown,
}

impl Failure {
    fn status(self) -> StatusCode {
        match self {
            Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::SessionExpired => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Body(fault) => fault.status(),
            // The framework has 400 for what it has no better word for, insufficient permission included.
            Self::BadRequest(_)
            | Self::Credentials
            | Self::AccessDenied
            | Self::NoSuchUser
            | Self::NoActiveSessions => StatusCode::BAD_REQUEST,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::Body(_) => "BAD_REQUEST",
            Self::Credentials => "DILOINV",
            Self::InvalidToken => "INVALID_TOKEN",
            Self::SessionExpired => "SESSION_EXPIRED",
            Self::AccessDenied => "ACCESS_DENIED",
            Self::NoSuchUser => "USER_DOES_NOT_EXISTS",
            Self::NoActiveSessions => "NO_ACTIVE_SESSIONS",
            Self::NotFound => "NOT_FOUND",
            Self::Method => "METHOD_NOT_SUPPORTED",
            Self::Unknown => "UNKNOWN",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::BadRequest(what) => what,
            Self::Body(BodyFault::TooLarge) => "the body is larger than 64 KiB",
            Self::Body(BodyFault::Slow) => "the body took too long",
            Self::Body(BodyFault::Cut) => "the body was cut off",
            Self::Credentials => "Invalid credentials",
            Self::InvalidToken => "Invalid token",
            Self::SessionExpired => "Session has expired",
            Self::AccessDenied => "Insufficient Permission",
            Self::NoSuchUser => "User does not exist",
            Self::NoActiveSessions => "No active sessions",
            Self::NotFound => "No such path",
            Self::Method => "Method not supported",
            Self::Unknown => "Internal Server Error",
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Granted {
    is_success: bool,
    data: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed {
    is_success: bool,
    message: &'static str,
    code: &'static str,
    error: &'static str,
}

/// The envelope around an outcome, with the status that belongs to it.
pub(super) fn envelope(outcome: Result<Value, Failure>) -> Answer {
    let (status, text) = match outcome {
        Ok(data) => (StatusCode::OK, serde_json::to_string(&Granted { is_success: true, data })),
        Err(failure) => {
            let code = failure.code();
            let failed = Failed { is_success: false, message: failure.message(), code, error: code };
            (failure.status(), serde_json::to_string(&failed))
        }
    };
    match text {
        Ok(text) => json(status, text),
        Err(_) => {
            json(StatusCode::INTERNAL_SERVER_ERROR, r#"{"isSuccess":false,"code":"UNKNOWN"}"#.to_owned())
        }
    }
}
