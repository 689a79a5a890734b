//! What the API says while the appliance is sealed: that the process lives, that it is not ready, and to everything
//! else that somebody has to unseal it. No token is looked at, for nothing is there to hold it against.

use axum::{
    Json, Router,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use super::{error::ApiError, intake, routes::private};

pub fn router() -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(refused)
        .method_not_allowed_fallback(refused)
}

async fn healthz() -> Response {
    private(Json(json!({"status": "ok", "sealed": true})).into_response())
}

async fn readyz() -> Response {
    let body = Json(json!({"status": "not ready", "reason": "sealed"}));
    private((StatusCode::SERVICE_UNAVAILABLE, body).into_response())
}

async fn refused(request: Request) -> Response {
    intake::drain(request.into_body(), intake::STRANGERS_BODY_MAX).await;
    private(ApiError::sealed().into_response())
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn it_says_that_it_lives_and_is_sealed_and_nothing_else() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let ask = |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path);
            let request =
                request.header("authorization", "Bearer clst_x").body(Body::from("{}")).expect("valid");
            runtime.block_on(async {
                let response = router().oneshot(request).await.expect("infallible");
                assert_eq!(response.headers()["cache-control"], "no-store");
                let status = response.status().as_u16();
                let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
                (status, serde_json::from_slice::<Value>(&body).expect("JSON"))
            })
        };
        assert_eq!(ask("GET", "/healthz"), (200, json!({"status": "ok", "sealed": true})));
        assert_eq!(ask("GET", "/readyz"), (503, json!({"status": "not ready", "reason": "sealed"})));
        for (method, path) in
            [("POST", "/v1/chat/completions"), ("GET", "/metrics"), ("GET", "/nothing"), ("POST", "/healthz")]
        {
            let (status, body) = ask(method, path);
            assert_eq!((status, &body["error"]["code"]), (503, &json!("sealed")), "{method} {path}");
            assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string());
        }
    }
}
