//! How many are held.

use aril_sim::fact::Power;
use aril_sim::policy::router::PunicaPaper;
use aril_sim::policy::scaler::PunicaHints;
use aril_sim::time::Span;

use super::stage::{Play, Stage, with};

fn hints() -> PunicaHints {
    with(|p: &mut PunicaHints| {
        p.period = Span::from_ms(10);
        p.light_batch = 1;
        p.idle_for = Span::from_ms(50);
        p.min_on = 1;
    })
}

fn stage(on: usize) -> Stage {
    let mut stage = Stage::of(4).router(PunicaPaper::default()).scaler(hints());
    for replica in &mut stage.settings.replicas[on..] {
        replica.starts_on = false;
    }
    stage.each(|replica| replica.startup = Span::from_ms(30))
}

fn turned(play: &Play, to: Power) -> Vec<u32> {
    play.power.iter().filter(|&&(_, _, power)| power == to).map(|&(_, replica, _)| replica).collect()
}

#[test]
fn one_more_is_acquired_when_none_is_lightly_loaded_and_it_serves_after_its_start() {
    let play = stage(1).ask(0, 0, 8, 200).ask(1, 0, 8, 200).ask(60_000, 0, 8, 100).play();
    let acquired = play.power.iter().find(|&&(_, _, power)| power == Power::Starting).expect("an acquisition");
    assert_eq!((acquired.0.as_secs_f64(), acquired.1), (0.010, 3), "at the first look, the highest id");
    let on = play.power.iter().find(|&&(_, _, power)| power == Power::On).expect("it starts");
    assert_eq!((on.0.as_secs_f64(), on.1), (0.040, 3));
}

#[test]
fn held_requests_acquire_as_many_as_they_need_and_no_more() {
    // Four places a replica: ten requests need three replicas.
    let stage = (0..10).fold(stage(1), |stage, i| stage.ask(i, 0, 8, 100));
    let play = stage.play();
    assert_eq!(turned(&play, Power::Starting)[..2], [3, 2]);
    assert!(turned(&play, Power::Starting).len() <= 3);
    assert_eq!(play.held.len(), 6);
}

#[test]
fn what_had_no_load_is_released_after_a_while_and_one_light_replica_is_kept() {
    let play = stage(4).ask(0, 0, 8, 300).play();
    // Replica 3 works and is light itself; 0, 1 and 2 are idle from the start: they go at the look after 50 ms, the
    // last of them too, since replica 3 is lightly loaded.
    assert_eq!(turned(&play, Power::Off), [0, 1, 2]);
    let released = play.power[0].0.as_secs_f64();
    assert!((0.050..=0.070).contains(&released), "{released}");
}

#[test]
fn as_many_are_kept_as_told() {
    let mut stage = Stage::of(4).router(PunicaPaper::default());
    let mut hints = hints();
    hints.min_on = 3;
    stage = stage.scaler(hints);
    assert_eq!(turned(&stage.ask(0, 0, 8, 300).play(), Power::Off), [0]);
}

#[test]
fn a_released_replica_is_acquired_again_when_load_returns() {
    let stage = (0..8).fold(stage(4).ask(0, 0, 8, 200), |stage, i| stage.ask(150_000 + i, 0, 8, 100));
    let play = stage.play();
    assert!(turned(&play, Power::Off).len() >= 3);
    assert!(!turned(&play, Power::Starting).is_empty());
}
