//! Whether a failed attempt is repeated: only where it cannot hurt, and not so
//! often that retries make an outage worse.

use std::time::Instant;

use http::Method;

use crate::answer::{Failure, RetrySafety};
use crate::metrics::{GatewayMetrics, Rejection};
use crate::snapshot::CompiledRoute;

/// Whether repeating a request with this method does what sending it once does
/// (RFC 9110 §9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether a request with this method asks for nothing but an answer (RFC 9110
/// §9.2.1).
fn is_safe_method(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    )
}

/// Whether the failure leaves room for another attempt, by nature.
pub(crate) fn is_safe(failure: &Failure, method: &Method) -> bool {
    match failure.retry {
        RetrySafety::NeverSent => true,
        RetrySafety::IfIdempotent => is_idempotent(method),
        RetrySafety::IfSafe => is_safe_method(method),
        RetrySafety::Never => false,
    }
}

/// Asks the route's limits for one more attempt and counts it.
///
/// The budget is for requests that somebody may be working on. One that was never
/// sent has cost the service nothing, and sending it to another instance adds no
/// load to an outage, so that only the number of attempts limits it: else, with half
/// of the instances just dead, the half of the requests that meets them would use up
/// the budget and fail.
pub(crate) fn allow(
    route: &CompiledRoute,
    attempts: u32,
    failure: &Failure,
    now: Instant,
    metrics: &GatewayMetrics,
) -> bool {
    if attempts >= route.spec.retry.attempts {
        return false;
    }
    let was_sent = failure.retry != RetrySafety::NeverSent;
    if was_sent && !route.retry_budget.retry(now) {
        metrics.rejected(Rejection::RetryBudget);
        return false;
    }
    route.metrics.retries.add(1);
    true
}
