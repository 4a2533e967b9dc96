//! The same seed, the same requests; one consumer of randomness does not disturb another.

use aril_sim::workload::Offered;

use crate::given::{build, try_build};

const TEXT: &str = "arrivals.poisson.rate = 5.0\nrequests = 2000\ninput_tokens.lognormal = { s = 1.0, scale = 100.0 }\noutput_tokens.exponential.mean = 100.0\n";

fn drawn(more: &str) -> Vec<Offered> {
    build(&format!("{TEXT}{more}")).arrivals().collect()
}

fn column<T>(all: &[Offered], of: impl Fn(&Offered) -> T) -> Vec<T> {
    all.iter().map(of).collect()
}

#[test]
fn a_workload_gives_the_same_requests_each_time_and_another_seed_gives_others() {
    let text = format!("{TEXT}popularity = \"working-set\"\noutput_predictor.noisy.relative_error = 0.5");
    let workload = build(&text);
    let first: Vec<_> = workload.arrivals().collect();
    assert_eq!(first, workload.arrivals().collect::<Vec<_>>());
    assert_eq!(first, build(&text).arrivals().collect::<Vec<_>>());
    assert_ne!(first, try_build(&text, ".".as_ref(), 1, 0).unwrap().arrivals().collect::<Vec<_>>());
}

#[test]
fn a_change_of_one_law_leaves_the_draws_of_the_others_alone() {
    let plain = drawn("popularity = \"identical\"");
    for (change, same) in [
        ("popularity.zipf = { s = 1.0, adapters = 50 }", "popularity"),
        ("popularity = \"working-set\"", "popularity"),
        ("popularity = \"identical\"\noutput_predictor.noisy.relative_error = 0.3", "predictor"),
        ("popularity = \"identical\"\nranks = { 8 = 0.5, 64 = 0.5 }", "ranks"),
        ("popularity = \"identical\"\nbase_share = 0.5", "base share"),
    ] {
        let changed = drawn(change);
        assert_eq!(column(&plain, |o| o.request.arrival), column(&changed, |o| o.request.arrival), "{same}");
        assert_eq!(
            column(&plain, |o| o.request.prompt_tokens),
            column(&changed, |o| o.request.prompt_tokens),
            "{same}"
        );
        assert_eq!(column(&plain, |o| o.outcome), column(&changed, |o| o.outcome), "{same}");
    }
    let longer = build(&format!("{}popularity = \"identical\"", TEXT.replace("mean = 100.0", "mean = 300.0")));
    let longer: Vec<_> = longer.arrivals().collect();
    assert_eq!(column(&plain, |o| o.request.prompt_tokens), column(&longer, |o| o.request.prompt_tokens));
}

#[test]
fn one_adapter_more_leaves_the_ranks_of_the_others_alone() {
    let ranks = |adapters: u32| -> Vec<u32> {
        let workload = build(&format!(
            "{TEXT}popularity.zipf = {{ s = 1.0, adapters = {adapters} }}\nranks = {{ 8 = 0.5, 64 = 0.5 }}"
        ));
        workload.catalog.adapters.iter().map(|adapter| adapter.rank).collect()
    };
    let (fifty, more) = (ranks(50), ranks(51));
    assert_eq!(fifty[..], more[..50]);
    assert!(fifty.contains(&8) && fifty.contains(&64));
}

#[test]
fn base_requests_leave_the_adapters_of_the_others_alone() {
    let (all, some) =
        (drawn("popularity.zipf = { s = 1.0 }"), drawn("popularity.zipf = { s = 1.0 }\nbase_share = 0.5"));
    let kept = all.iter().zip(&some).filter(|(_, some)| some.request.adapter.is_some());
    assert!(kept.clone().count() > 800 && kept.clone().count() < 1200);
    assert!(kept.clone().all(|(all, some)| all.request.adapter == some.request.adapter && all.request.tenant == some.request.tenant));
}
