//! What went wrong between two certificates, and what to do about it.

use rustls::{
    AlertDescription, CertificateError, Error,
    pki_types::{ServerName, UnixTime},
};

/// A sentence about a handshake with `host` that failed, for whoever holds the certificate `own`; no full stop
/// at the end.
pub fn explain(error: &Error, host: &str, own: &str) -> String {
    match error {
        Error::AlertReceived(alert) => refused(*alert, host, own),
        Error::InvalidCertificate(wrong) => distrusted(wrong, host),
        Error::InvalidMessage(_) => format!("{host} does not speak TLS there"),
        Error::PeerIncompatible(_) => format!("{host} does not speak TLS 1.3"),
        other => format!("the TLS handshake with {host} failed: {other}"),
    }
}

/// What the other side said of our certificate (RFC 8446, 6.2).
fn refused(alert: AlertDescription, host: &str, own: &str) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRevoked => {
            format!("{host} refuses the certificate {own}, which was revoked: ask for another one")
        }
        Alert::CertificateExpired => {
            format!(
                "{host} refuses the certificate {own}, which has expired: renew it (ctl pki renew)"
            )
        }
        // The latter when an authority of that name is known, which is another one.
        Alert::UnknownCA | Alert::DecryptError => format!(
            "{host} refuses the certificate {own}, which is not from an authority that it knows: is it another \
             site's?"
        ),
        Alert::CertificateRequired => {
            format!(
                "{host} wants a certificate, and none was shown: name one with --cert and --key"
            )
        }
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
            format!("{host} refuses the certificate {own}: was it issued for clients?")
        }
        other => format!("{host} broke the TLS handshake off: {other:?}"),
    }
}

/// What is wrong with the other side's.
fn distrusted(wrong: &CertificateError, host: &str) -> String {
    use CertificateError as Wrong;
    match wrong {
        Wrong::ExpiredContext { time, not_after } => format!(
            "the certificate of {host} expired {} ago: renew it there (ctl pki renew)",
            between(*not_after, *time)
        ),
        Wrong::Expired => format!("the certificate of {host} has expired: renew it there"),
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            format!("the certificate of {host} is not valid yet: are both clocks right?")
        }
        Wrong::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names = presented.iter().map(|name| plain(name));
            let names = names.collect::<Vec<_>>().join(", ");
            format!(
                "the certificate that {host} shows is for {}, and not for {}: use such a name, or issue one \
                 for this (ctl pki issue --host)",
                match names.as_str() {
                    "" => "no host",
                    names => names,
                },
                server(expected)
            )
        }
        Wrong::Revoked => format!("the certificate of {host} was revoked: is somebody else there?"),
        Wrong::UnknownIssuer | Wrong::BadSignature => format!(
            "the certificate of {host} is not from the authority that is trusted here: is it another site's?"
        ),
        Wrong::UnknownRevocationStatus => format!(
            "whether the certificate of {host} was revoked is not told by the lists that are here: bring the \
             one of its authority"
        ),
        other => format!("the certificate of {host} cannot be trusted: {other}"),
    }
}

/// rustls has `DnsName("x")` and `IpAddress(1.2.3.4)`.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"').to_owned()
}

fn server(name: &ServerName<'_>) -> String {
    name.to_str().into_owned()
}

fn between(from: UnixTime, to: UnixTime) -> String {
    let seconds = to.as_secs().saturating_sub(from.as_secs());
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let says = |error| explain(&error, "far.example", "/etc/me.pem");
        let alert = |alert| says(Error::AlertReceived(alert));
        assert!(
            alert(AlertDescription::CertificateRevoked).contains("/etc/me.pem, which was revoked")
        );
        assert!(alert(AlertDescription::CertificateExpired).contains("ctl pki renew"));
        assert!(alert(AlertDescription::UnknownCA).contains("another site's"));
        assert!(alert(AlertDescription::CertificateRequired).contains("--cert"));
        let wrong = |wrong| says(Error::InvalidCertificate(wrong));
        let expired = wrong(CertificateError::ExpiredContext {
            time: at(200_000),
            not_after: at(20_000),
        });
        assert!(
            expired.contains("far.example expired 2 days ago"),
            "{expired}"
        );
        let other = wrong(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("far.example").unwrap(),
            presented: vec![
                "DnsName(\"near.example\")".into(),
                "IpAddress(10.0.0.7)".into(),
            ],
        });
        assert!(
            other.contains("is for near.example, 10.0.0.7, and not for far.example"),
            "{other}"
        );
    }
}
