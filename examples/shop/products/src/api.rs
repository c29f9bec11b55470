//! The service over HTTP. Errors are RFC 9457 problems that name the field.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use garde::Validate;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::store::{NewProduct, Product, Products, StoreError};

/// Products on a page, when nobody says and at most.
const PAGE: u32 = 50;
const PAGE_MAX: u32 = 200;

#[derive(OpenApi)]
#[openapi(info(title = "products", description = "The products of the shop."))]
struct Document;

/// The whole service.
pub(crate) fn router(products: Products) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(list, add))
        .routes(routes!(read, replace, remove))
        .split_for_parts();
    router
        .route("/openapi.json", get(async move || Json(document)))
        .route("/healthz", get(async || "ok\n"))
        .layer(middleware::from_fn(log))
        .with_state(products)
}

/// One JSON line for each request, with the id that the gateway gave it.
async fn log(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let id = request
        .headers()
        .get("x-request-id")
        .and_then(|id| id.to_str().ok().map(str::to_owned));
    let response = next.run(request).await;
    // A check every few hundred milliseconds is no news.
    if path != "/healthz" {
        let status = response.status().as_u16();
        println!(
            "{}",
            json!({"method": method.as_str(), "path": path, "status": status, "request_id": id})
        );
    }
    response
}

#[derive(Deserialize, IntoParams)]
struct Page {
    /// Only products whose name holds this.
    #[serde(default)]
    q: String,
    /// At most this many; 50 when not given, 200 at most.
    #[serde(default = "page")]
    limit: u32,
    /// Leaves out this many first.
    #[serde(default)]
    offset: u32,
}

fn page() -> u32 {
    PAGE
}

/// A page of products, by id.
#[utoipa::path(get, path = "/products", params(Page), responses((status = 200, body = Vec<Product>)))]
async fn list(
    State(products): State<Products>,
    Valid(Query(page)): Valid<Query<Page>>,
) -> Result<Json<Vec<Product>>, Problem> {
    Ok(Json(
        products
            .list(page.q, page.limit.min(PAGE_MAX), page.offset)
            .await?,
    ))
}

/// Adds a product.
#[utoipa::path(post, path = "/products", request_body = NewProduct,
    responses((status = 201, body = Product), (status = 422, body = Problem)))]
async fn add(
    State(products): State<Products>,
    Valid(Json(new)): Valid<Json<NewProduct>>,
) -> Result<Response, Problem> {
    check(&new)?;
    let product = products.add(new).await?;
    let mut headers = HeaderMap::new();
    if let Ok(location) = HeaderValue::try_from(format!("/products/{}", product.id)) {
        headers.insert(LOCATION, location);
    }
    Ok((StatusCode::CREATED, headers, Json(product)).into_response())
}

/// One product.
#[utoipa::path(get, path = "/products/{id}", params(("id" = i64, Path)),
    responses((status = 200, body = Product), (status = 404, body = Problem)))]
async fn read(
    State(products): State<Products>,
    Valid(Path(id)): Valid<Path<i64>>,
) -> Result<Json<Product>, Problem> {
    products
        .get(id)
        .await?
        .map(Json)
        .ok_or_else(|| Problem::missing(id))
}

/// Replaces a product. The same again changes nothing.
#[utoipa::path(put, path = "/products/{id}", params(("id" = i64, Path)), request_body = NewProduct,
    responses((status = 200, body = Product), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn replace(
    State(products): State<Products>,
    Valid(Path(id)): Valid<Path<i64>>,
    Valid(Json(new)): Valid<Json<NewProduct>>,
) -> Result<Json<Product>, Problem> {
    check(&new)?;
    products
        .replace(id, new)
        .await?
        .map(Json)
        .ok_or_else(|| Problem::missing(id))
}

/// Removes a product.
#[utoipa::path(delete, path = "/products/{id}", params(("id" = i64, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
async fn remove(
    State(products): State<Products>,
    Valid(Path(id)): Valid<Path<i64>>,
) -> Result<StatusCode, Problem> {
    match products.remove(id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::missing(id)),
    }
}

fn check(new: &NewProduct) -> Result<(), Problem> {
    new.validate().map_err(|report| {
        let fields = report.iter().map(|(path, error)| FieldError {
            field: path.to_string(),
            message: error.to_string(),
        });
        Problem {
            errors: fields.collect(),
            ..Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "some fields are not as they should be",
            )
        }
    })
}

/// An RFC 9457 problem.
#[derive(Debug, Serialize, ToSchema)]
struct Problem {
    title: String,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// What is wrong with one field.
#[derive(Debug, Serialize, ToSchema)]
struct FieldError {
    field: String,
    message: String,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    fn missing(id: i64) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no product {id}"))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(_) => {
                // For us, not for the client: it may name files.
                eprintln!("{}", json!({"error": error.to_string()}));
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the database failed; try again",
                )
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

macro_rules! problem_from {
    ($($rejection:ty),*) => {$(
        impl From<$rejection> for Problem {
            // Axum's own words: they name the field, and for JSON line and column.
            fn from(rejection: $rejection) -> Self {
                Self::new(rejection.status(), rejection.body_text())
            }
        }
    )*};
}
problem_from!(JsonRejection, PathRejection, QueryRejection);

/// Any extractor, with its refusal as a problem.
struct Valid<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Valid<Json<T>> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Ok(Self(Json::from_request(request, state).await?))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Valid<Path<T>> {
    type Rejection = Problem;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Problem> {
        Ok(Self(Path::from_request_parts(parts, state).await?))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Valid<Query<T>> {
    type Rejection = Problem;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Problem> {
        Ok(Self(Query::from_request_parts(parts, state).await?))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    struct World {
        folder: tempfile::TempDir,
        router: Router,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let router = router(Products::open(&folder.path().join("data/products.db")).unwrap());
        World { folder, router }
    }

    async fn ask(router: &Router, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(axum::body::Body::from(body.to_owned()))
            .unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn a_product_is_made_read_changed_and_removed() {
        let world = world();
        let (status, made) = ask(
            &world.router,
            "POST",
            "/products",
            r#"{"name": "Lamp", "price_cents": 4200, "stock": 3}"#,
        )
        .await;
        assert_eq!((status, &made["name"]), (201, &json!("Lamp")));
        let path = format!("/products/{}", made["id"]);
        assert_eq!(
            ask(&world.router, "GET", &path, "").await,
            (200, made.clone())
        );
        let put = r#"{"name": "Lamp II", "price_cents": 3900, "stock": 3}"#;
        assert_eq!(
            ask(&world.router, "PUT", &path, put).await.1["name"],
            "Lamp II"
        );
        assert_eq!(
            ask(&world.router, "PUT", &path, put).await.0,
            200,
            "the same again"
        );
        assert_eq!(
            ask(&world.router, "GET", "/products?q=LAMP&limit=1", "")
                .await
                .1[0]["name"],
            "Lamp II"
        );
        assert_eq!(ask(&world.router, "DELETE", &path, "").await.0, 204);
        assert_eq!(ask(&world.router, "GET", &path, "").await.0, 404);
    }

    #[tokio::test]
    async fn problems_name_the_field_or_the_place() {
        let world = world();
        for (method, path, body, status, word) in [
            (
                "POST",
                "/products",
                r#"{"name": "", "price_cents": 1, "stock": 1}"#,
                422,
                "name",
            ),
            (
                "POST",
                "/products",
                r#"{"name": "A", "price_cents": -1, "stock": 1}"#,
                422,
                "price_cents",
            ),
            (
                "POST",
                "/products",
                r#"{"name": "A"}"#,
                422,
                "missing field `price_cents`",
            ),
            ("POST", "/products", "{", 400, "line 1 column 1"),
            ("GET", "/products/ada", "", 400, "ada"),
            ("GET", "/products?limit=many", "", 400, "limit"),
            (
                "PUT",
                "/products/99",
                r#"{"name": "A", "price_cents": 1, "stock": 1}"#,
                404,
                "no product 99",
            ),
            ("DELETE", "/products/99", "", 404, "no product 99"),
        ] {
            let (got, problem) = ask(&world.router, method, path, body).await;
            assert_eq!(got, status, "{method} {path} {body}: {problem}");
            assert!(problem.to_string().contains(word), "{word}: {problem}");
        }
    }

    #[tokio::test]
    async fn it_describes_itself() {
        let world = world();
        let document = ask(&world.router, "GET", "/openapi.json", "").await.1;
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        assert_eq!(
            document["paths"]["/products/{id}"]
                .as_object()
                .unwrap()
                .len(),
            3
        );
    }

    #[tokio::test]
    async fn replicas_that_start_at_once_share_one_database() {
        // Whether they meet while one still makes the tables is chance: several tries.
        for _ in 0..40 {
            start_at_once().await;
        }
    }

    async fn start_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("products.db");
        let opened: Vec<_> = std::thread::scope(|scope| {
            let open = || {
                Products::open(&path)
                    .map(router)
                    .map_err(|error| error.to_string())
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap().unwrap())
                .collect()
        });
        let body = r#"{"name": "Lamp", "price_cents": 4200, "stock": 3}"#;
        assert_eq!(ask(&opened[0], "POST", "/products", body).await.0, 201);
        for replica in &opened {
            assert_eq!(
                ask(replica, "GET", "/products", "")
                    .await
                    .1
                    .as_array()
                    .unwrap()
                    .len(),
                4
            );
        }
    }

    #[tokio::test]
    async fn the_folder_of_the_database_is_made() {
        assert!(world().folder.path().join("data/products.db").exists());
    }
}
