//! The side that connects: shows its certificate as the file is now, believes what the authorities say, and
//! puts what goes wrong in words.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::{
    ClientConfig,
    client::{Resumption, WebPkiServerVerifier},
    pki_types::ServerName,
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{PROTOCOL, TlsError, TlsFiles, explain, fail, provider};
use crate::watched::Watched;

/// Makes connections with the files as they are at that moment.
#[derive(Debug)]
pub struct Connector {
    config: Watched<ClientConfig>,
    /// The certificate that is shown, for sentences.
    own: String,
}

impl Connector {
    /// Reads the files; again whenever one of them is another.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let paths = files.paths();
        let own = files.cert.display().to_string();
        let make = move || config(&files);
        let config = Watched::new("the certificate for other services", paths, make)?;
        Ok(Self { config, own })
    }

    /// Speaks TLS upon a stream to `host`, a name or an address that the other side's certificate must have.
    ///
    /// Errors that are about certificates have the kind [`TROUBLE`] and a sentence; since a server judges our
    /// certificate after we have begun to send, they may come from the first read, too.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<Encrypted> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            io::Error::new(TROUBLE, format!("{host:?} can stand in no certificate"))
        })?;
        let connector = TlsConnector::from(self.config.get());
        let words = Words {
            host: host.to_owned(),
            own: self.own.clone(),
        };
        match connector.connect(name, stream).await {
            Ok(stream) => Ok(Encrypted { stream, words }),
            Err(error) => Err(words.tell(error)),
        }
    }
}

/// The kind of an error that is about certificates and has a sentence for people.
pub const TROUBLE: io::ErrorKind = io::ErrorKind::PermissionDenied;

fn config(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let Some((path, roots)) = files.roots()? else {
        let missing = "the authority that the other side's certificate is from (ca) is not named";
        return Err(fail(&files.cert)(missing));
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .with_crls(files.revoked()?)
        .only_check_end_entity_revocation()
        .build()
        .map_err(fail(path))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(fail(&files.cert))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(files.chain()?, files.private_key()?)
        .map_err(fail(&files.cert))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct Words {
    host: String,
    own: String,
}

impl Words {
    /// The same error, in words where it is TLS's.
    fn tell(&self, error: io::Error) -> io::Error {
        let inner = error.get_ref().and_then(|e| e.downcast_ref());
        match inner {
            Some(tls) => io::Error::new(TROUBLE, explain(tls, &self.host, &self.own)),
            None => error,
        }
    }
}

/// A connection that is encrypted, and whose other side has shown who it is.
#[derive(Debug)]
pub struct Encrypted {
    stream: TlsStream<TcpStream>,
    words: Words,
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        Poll::Ready(read.map_err(|error| self.words.tell(error)))
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
