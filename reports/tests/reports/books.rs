//! A run whose books do not balance has no result.

use aril_reports::{Recorder, RecorderSettings, ReportError};
use aril_sim::fact::{Fact, Observer, Rows};
use aril_sim::time::{Span, Time};

use crate::facts::settings;
use crate::queue::{self, Route, Setup};

/// Tells the recorder something else than what happened, once.
struct Liar<F> {
    recorder: Recorder,
    lie: F,
}

impl<F: FnMut(&mut Recorder, Time, &Fact<'_>) -> bool> Observer for Liar<F> {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if !(self.lie)(&mut self.recorder, now, fact) {
            self.recorder.observe(now, fact);
        }
    }
}

fn with_lie(lie: impl FnMut(&mut Recorder, Time, &Fact<'_>) -> bool) -> ReportError {
    let setup = Setup { requests: 400, ..Setup::new(Route::RoundRobin, 5) };
    let settings = RecorderSettings { warmup: Span::ZERO, drain: Span::ZERO, ..settings(&setup) };
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::create(folder.path(), setup.catalog(), settings).unwrap();
    let mut liar = Liar { recorder, lie };
    let ended_at = queue::run(&setup, &mut liar);
    liar.recorder.finish(ended_at).unwrap_err()
}

#[test]
fn a_request_without_an_end_is_found() {
    let mut told = false;
    let error = with_lie(|_, _, fact| matches!(fact, Fact::Ended(_)) && !std::mem::replace(&mut told, true));
    assert!(
        matches!(&error, ReportError::Books(what) if what.contains("400 requests were offered and 399 ended")),
        "{error}"
    );
}

#[test]
fn a_request_that_arrived_earlier_than_told_breaks_littles_law() {
    let mut told = false;
    let error = with_lie(|recorder, now, fact| match fact {
        Fact::Offered(offered) if offered.request.id.0 == 100 && !std::mem::replace(&mut told, true) => {
            recorder.observe(now + Span::from_ps(1), &Fact::Offered(offered));
            true
        }
        _ => false,
    });
    assert!(matches!(&error, ReportError::Books(what) if what.starts_with("Little's law")), "{error}");
}

#[test]
fn a_lost_token_is_found() {
    let mut told = false;
    let error = with_lie(|recorder, now, fact| match fact {
        Fact::Stretch(stretch) if stretch.rows.len() > 1 && !std::mem::replace(&mut told, true) => {
            let mut stretch = *stretch;
            let rows: Vec<_> = stretch.rows.iter().skip(1).collect();
            stretch.rows = Rows::Listed(&rows);
            recorder.observe(now, &Fact::Stretch(stretch));
            true
        }
        _ => false,
    });
    assert!(matches!(&error, ReportError::Books(what) if what.contains("tokens")), "{error}");
}

#[test]
fn waits_that_do_not_add_up_are_found() {
    let mut told = false;
    let error = with_lie(|recorder, now, fact| match fact {
        Fact::Ended(life) if life.first_token.is_some() && !std::mem::replace(&mut told, true) => {
            let mut life = life.clone();
            life.waits.slot += Span::from_ps(1);
            recorder.observe(now, &Fact::Ended(life));
            true
        }
        _ => false,
    });
    assert!(matches!(&error, ReportError::Books(what) if what.contains("waits of request")), "{error}");
}

#[test]
fn nothing_offered_and_nothing_left_of_the_window_are_said_so() {
    let setup = Setup { requests: 0, ..Setup::new(Route::RoundRobin, 5) };
    let (_, result) = crate::facts::record(&setup, settings(&setup));
    assert!(matches!(result.unwrap_err(), ReportError::Empty(what) if what == "no request was offered"));
    let setup = Setup { requests: 50, ..Setup::new(Route::RoundRobin, 5) };
    let (_, result) = crate::facts::record(&setup, settings(&setup));
    assert!(matches!(result.unwrap_err(), ReportError::Empty(what) if what.contains("warm-up")));
}

#[test]
fn settings_that_do_not_fit_are_refused_before_the_run() {
    let setup = Setup::new(Route::RoundRobin, 1);
    let folder = tempfile::tempdir().unwrap();
    let mut short = settings(&setup);
    short.replicas_on.pop();
    assert!(
        matches!(Recorder::create(folder.path(), setup.catalog(), short), Err(ReportError::Settings(what)) if what.contains("replicas_on"))
    );
    let mut classes = settings(&setup);
    classes.slo.pop();
    assert!(
        matches!(Recorder::create(folder.path(), setup.catalog(), classes), Err(ReportError::Settings(what)) if what.contains("SLO class 1"))
    );
}
