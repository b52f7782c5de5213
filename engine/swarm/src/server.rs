//! A manager's port: whoever wants to be let in, or another certificate, comes here.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine_error::{Error, Kind, Result};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::attempts::Attempts;
use crate::certificate::Holder;
use crate::protocol::{Admission, Answer, Request, receive, send};
use crate::tls::{self, Identity};

/// How long a conversation may take, from the first byte on.
const LIMIT: Duration = Duration::from_secs(10);

/// How many conversations go on at a time; others wait at the door.
const AT_A_TIME: usize = 64;

/// How long to wait after a connection that could not be taken.
const MOMENT: Duration = Duration::from_millis(100);

/// Who decides about requests.
pub(crate) trait Doorkeeper: Send + Sync + 'static {
    /// What becomes of a request. `holder` is who showed a certificate of the cluster's authority that
    /// is good now.
    fn admit<'a>(
        &'a self,
        holder: Option<Holder>,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Result<Admission>> + Send + 'a>>;
}

/// What the port needs: it takes up a renewed certificate.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    attempts: Mutex<Attempts>,
}

/// Gives a door another certificate.
#[derive(Debug)]
pub(crate) struct Lock(watch::Sender<Arc<ServerConfig>>);

impl Lock {
    /// From now on this certificate is shown.
    pub(crate) fn change(&self, own: &Identity) -> Result<()> {
        self.0.send_replace(tls::server(own)?);
        Ok(())
    }
}

impl Door {
    /// Listens.
    pub(crate) async fn bind(at: SocketAddr, own: &Identity) -> Result<(Arc<Self>, Lock)> {
        let listener = TcpListener::bind(at).await.map_err(|error| {
            Error::caused(Kind::Unavailable, format!("cannot listen at {at} as a manager"), error)
        })?;
        let (lock, config) = watch::channel(tls::server(own)?);
        Ok((Arc::new(Self { listener, config, attempts: Mutex::default() }), Lock(lock)))
    }

    /// Lets people in, until it is dropped.
    pub(crate) async fn serve(self: Arc<Self>, keeper: Arc<dyn Doorkeeper>) {
        let places = Arc::new(Semaphore::new(AT_A_TIME));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (stream, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "cannot take a connection");
                    tokio::time::sleep(MOMENT).await;
                    continue;
                }
            };
            let (door, keeper) = (self.clone(), keeper.clone());
            tokio::spawn(async move {
                let said = tokio::time::timeout(LIMIT, door.converse(stream, from.ip(), &*keeper));
                if let Ok(Err(error)) = said.await {
                    tracing::debug!(%error, %from, "a conversation at the managers' port ended");
                }
                drop(place);
            });
        }
    }

    async fn converse(
        &self,
        stream: TcpStream,
        from: IpAddr,
        keeper: &dyn Doorkeeper,
    ) -> std::io::Result<()> {
        let acceptor = TlsAcceptor::from(self.config.borrow().clone());
        let mut stream = acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let holder = shown.and_then(|der| Holder::of(der).ok());
        let request = receive(&mut stream).await?;
        let answer = match self.admit(from, holder, request, keeper).await {
            Ok(admission) => Answer::Admitted(Box::new(admission)),
            Err(error) => {
                tracing::info!(%from, why = error.chain(), "a node is not let in");
                Answer::Refused { message: error.chain(), kind: error.kind().into() }
            }
        };
        send(&mut stream, &answer).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await
    }

    async fn admit(
        &self,
        from: IpAddr,
        holder: Option<Holder>,
        request: Request,
        keeper: &dyn Doorkeeper,
    ) -> Result<Admission> {
        // A node is not kept from its next certificate by others that come from where it is.
        let known = holder.is_some() && matches!(request, Request::Renew { .. });
        if !known && !self.attempts().allows(from, Instant::now()) {
            let message = "too many attempts with a wrong token: try again in a minute";
            return Err(Error::new(Kind::Unavailable, message));
        }
        let outcome = keeper.admit(holder, request).await;
        if !known && outcome.as_ref().is_err_and(|error| error.kind() == Kind::Unauthorized) {
            self.attempts().failed(from, Instant::now());
        }
        outcome
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
