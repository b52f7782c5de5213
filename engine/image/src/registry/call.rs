//! One request to a registry: sent, its challenge answered, sent again where that may help.

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderName, RANGE};
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::{ATTEMPTS, Failure, Registry, auth, failure, pause};

/// A request that can be sent any number of times.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    method: Method,
    url: &'a str,
    headers: Vec<(HeaderName, String)>,
    body: Bytes,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, url: &'a str) -> Self {
        Self { method, url, headers: Vec::new(), body: Bytes::new() }
    }

    pub(super) fn get(url: &'a str) -> Self {
        Self::new(Method::GET, url)
    }

    #[must_use]
    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    #[must_use]
    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    fn wants(&self, name: &HeaderName) -> bool {
        self.headers.iter().any(|(known, _)| known == name)
    }
}

impl Registry {
    /// Asks until there is an answer worth having: success, or a failure that will not pass.
    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Response, Failure> {
        let mut failed = 0;
        loop {
            match self.ask_once(call).await {
                Err(failure) if failure.may_pass() && failed + 1 < ATTEMPTS => {
                    failed += 1;
                    pause(failed, failure.wait()).await;
                }
                result => return result,
            }
        }
    }

    /// Asks once; a challenge is answered.
    pub(super) async fn ask_once(&self, call: &Call<'_>) -> Result<Response, Failure> {
        self.ask_by(&self.client, call).await
    }

    /// The same by a client of its own limits.
    pub(super) async fn ask_by(
        &self,
        client: &Client,
        call: &Call<'_>,
    ) -> Result<Response, Failure> {
        let sent = async || {
            let mut request = client.request(call.method.clone(), call.url);
            for (name, value) in &call.headers {
                request = request.header(name, value);
            }
            self.send(request.body(call.body.clone()), call.url).await
        };
        let mut response = sent().await?;
        if response.status() == StatusCode::UNAUTHORIZED && self.is_here(call.url) {
            self.answer_challenge(call.url, &response).await?;
            response = sent().await?;
        }
        // Whoever asks for a part of something sees by the status that there is none.
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && call.wants(&RANGE) {
            return Ok(response);
        }
        accepted(response).await
    }

    /// Sends a request with the credentials that were accepted last, if it goes to this registry.
    pub(super) async fn send(
        &self,
        mut request: reqwest::RequestBuilder,
        url: &str,
    ) -> Result<Response, Failure> {
        if let Some(value) = self.authorization().clone().filter(|_| self.is_here(url)) {
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(|error| failure::of_transport(url, &error))
    }

    /// Whether a URL is of this registry, and not of one that it sends people to.
    pub(super) fn is_here(&self, url: &str) -> bool {
        let origin = |url: &str| Url::parse(url).map(|url| url.origin()).ok();
        origin(url).is_some_and(|there| Some(there) == origin(&self.endpoint.base))
    }

    /// Gets the `Authorization` that a refusal asks for.
    pub(super) async fn answer_challenge(
        &self,
        url: &str,
        response: &Response,
    ) -> Result<(), Failure> {
        let challenge = auth::Challenge::best(response.headers())
            .ok_or_else(|| Failure::Unauthorized("unauthorized: authentication required".into()))?;
        if challenge.is_insufficient() && self.authorization().is_some() {
            return Err(Failure::Denied(failure::DENIED.into()));
        }
        let asker = auth::Asker {
            client: &self.client,
            base: &self.endpoint.base,
            auth: self.auth.as_ref(),
            scopes: challenge.scopes(&self.repository, &self.access),
            offline: false,
        };
        let answer = challenge.answer(&asker, url).await?;
        *self.authorization() = Some(answer.authorization);
        Ok(())
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A good answer, or why it is none.
pub(super) async fn accepted(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    Err(failure::of_response(response).await)
}
