//! No order of the layers fails open: in each of the 24 what one of them refuses is refused, and reaches nothing.

use http_body_util::combinators::UnsyncBoxBody;
use tower::{BoxError, ServiceBuilder, util::BoxCloneService};

use super::*;

type AnyBody = UnsyncBoxBody<Bytes, BoxError>;
type Stack = BoxCloneService<Request<AnyBody>, Response<AnyBody>, Infallible>;

fn any<B>(body: B) -> AnyBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// `$layer` around a stack; `$in_body` is what it hands on, `$out_body` what it answers with.
macro_rules! around {
    ($layer:expr, $in_body:ty, $out_body:ty, $stack:expr) => {
        BoxCloneService::new(
            ServiceBuilder::new()
                .map_response(|response: Response<$out_body>| response.map(any))
                .layer($layer)
                .map_request(|request: Request<$in_body>| request.map(any))
                .service($stack),
        )
    };
}

/// Every order of four.
fn orders() -> Vec<[usize; 4]> {
    let digits = |n: usize| [n / 64, n / 16 % 4, n / 4 % 4, n % 4];
    (0..256)
        .map(digits)
        .filter(|order| (0..4).all(|layer| order.contains(&layer)))
        .collect()
}

#[tokio::test]
async fn in_each_of_the_24_orders_a_refusal_is_one_and_reaches_nothing() {
    let (overseer, schema, rollout, shadow) = (overseer(), schema(), rollout(), shadow());
    let orders = orders();
    assert_eq!(orders.len(), 24);
    for order in orders {
        let calls = Calls::default();
        let reached = calls.clone();
        let mut stack: Stack = BoxCloneService::new(service_fn(move |_: Request<AnyBody>| {
            reached.0.fetch_add(1, Ordering::SeqCst);
            async { Ok(Response::new(any(Full::new(Bytes::new())))) }
        }));
        for layer in order {
            stack = match layer {
                0 => around!(&overseer, MessageBody<AnyBody>, MessageBody<AnyBody>, stack),
                1 => around!(&schema, MessageBody<AnyBody>, MessageBody<AnyBody>, stack),
                2 => around!(&rollout, AnyBody, AnyBody, stack),
                _ => around!(&shadow, arqon::shadow::ShadowBody<AnyBody>, AnyBody, stack),
            };
        }
        for (refused, status) in [(blocked(), 403), (malformed(), 400)] {
            let answer = stack.clone().oneshot(refused.map(any)).await.expect("answered");
            assert_eq!(answer.status(), status, "{order:?}, from the inside out");
            assert!(answer.extensions().get::<arqon::Rejection>().is_some());
        }
        assert_eq!(calls.count(), 0, "{order:?}");
        let answer = stack.oneshot(good().map(any)).await.expect("answered");
        assert_eq!((answer.status().as_u16(), calls.count()), (200, 1), "{order:?}");
    }
}
