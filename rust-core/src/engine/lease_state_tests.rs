use super::*;

const TTL: Duration = Duration::from_secs(30);
const SENT: Instant = Instant::from_nanos(1_000_000_000_000);

const UNKNOWN: LeaseEvent =
    LeaseEvent::Unknown { backoff: Backoff { first: Duration::from_millis(50), longest: Duration::from_millis(800) } };

fn terms() -> Terms {
    Terms { renew: true, threshold: 2.0 / 3.0, margin: Duration::from_millis(2), max_hold: None, max_stall: None }
}

fn held() -> LeaseState {
    LeaseState::granted(SENT, TTL, terms())
}

fn after(seconds: f64) -> Instant {
    SENT + Duration::from_secs_f64(seconds)
}

fn renewing() -> LeaseState {
    let mut state = held();
    assert_eq!(state.on(after(10.0), LeaseEvent::Tick), Action::Renew);
    state
}

#[test]
fn r01_validity_counts_from_the_send_less_the_margin() {
    let state = held();
    assert_eq!(state.valid_until(), SENT + TTL - Duration::from_millis(302));
    assert!(state.is_valid(after(29.697)));
    assert!(!state.is_valid(after(29.699)));
}

#[test]
fn r01_a_renewal_counts_from_its_send_not_from_its_answer() {
    let mut state = renewing();
    state.on(after(14.0), LeaseEvent::Renewed { sent: after(10.0), ttl: TTL, epoch: 0 });
    assert_eq!(state.valid_until(), after(10.0) + TTL - Duration::from_millis(302));
}

#[test]
fn r01_an_answer_that_comes_after_its_own_end_is_a_loss() {
    let mut state = renewing();
    let action = state.on(after(50.0), LeaseEvent::Renewed { sent: after(10.0), ttl: TTL, epoch: 0 });
    assert_eq!(action, Action::Lose(LossReason::Expired));
}

#[test]
fn r02_validity_ends_by_the_clock_even_if_nobody_ticked() {
    let state = held();
    assert_eq!(state.status(), Status::Held);
    assert!(!state.is_valid(after(31.0)));
}

#[test]
fn it_renews_when_a_third_of_the_ttl_has_passed() {
    let mut state = held();
    assert_eq!(state.next_deadline(), Some(after(10.0)));
    assert_eq!(state.on(after(9.9), LeaseEvent::Tick), Action::Wait);
    assert_eq!(state.on(after(10.0), LeaseEvent::Tick), Action::Renew);
    assert_eq!(state.on(after(10.5), LeaseEvent::Tick), Action::Wait, "one renewal in flight is enough");
    assert_eq!(state.next_deadline(), Some(state.valid_until()));
}

#[test]
fn r03_an_unknown_answer_neither_extends_nor_loses() {
    let mut state = renewing();
    let before = state.valid_until();
    assert_eq!(state.on(after(11.0), UNKNOWN), Action::Wait);
    assert_eq!(state.valid_until(), before);
    assert_eq!(state.next_deadline(), Some(after(11.05)));
    assert_eq!(state.on(after(11.05), LeaseEvent::Tick), Action::Renew);
    state.on(after(12.0), UNKNOWN);
    assert_eq!(state.next_deadline(), Some(after(12.1)), "the pause doubles");
}

#[test]
fn r03_unknown_until_the_end_is_a_loss() {
    let mut state = renewing();
    state.on(after(11.0), UNKNOWN);
    assert_eq!(state.on(after(29.7), LeaseEvent::Tick), Action::Lose(LossReason::Expired));
    assert_eq!(state.next_deadline(), None);
}

#[test]
fn r03_gone_is_a_loss_at_once() {
    let mut state = renewing();
    assert_eq!(state.on(after(10.1), LeaseEvent::Gone), Action::Lose(LossReason::Gone));
    assert_eq!(state.status(), Status::Lost(LossReason::Gone));
}

#[test]
fn r06_nothing_renews_a_released_lease() {
    let mut state = renewing();
    assert_eq!(state.on(after(10.1), LeaseEvent::Release), Action::Release);
    assert!(!state.is_valid(after(10.1)), "r05: validity ends before the request is sent");
    for event in [LeaseEvent::Tick, LeaseEvent::Renewed { sent: after(10.0), ttl: TTL, epoch: 0 }, UNKNOWN, LeaseEvent::Release] {
        assert_eq!(state.on(after(10.2), event), Action::Wait);
        assert_eq!(state.status(), Status::Releasing);
    }
    assert_eq!(state.on(after(10.3), LeaseEvent::ReleaseEnded(Status::Released)), Action::Wait);
    assert_eq!(state.status(), Status::Released);
    assert_eq!(state.next_deadline(), None);
}

#[test]
fn r01_a_release_of_what_has_run_out_finds_a_loss() {
    let mut state = held();
    let end = state.valid_until();
    assert_eq!(state.on(end, LeaseEvent::Release), Action::Lose(LossReason::Expired));
    assert_eq!(state.status(), Status::Lost(LossReason::Expired));
    let mut hung = LeaseState::granted(SENT, TTL, Terms { max_hold: Some(Duration::from_secs(5)), ..terms() });
    assert_eq!(hung.on(after(5.0), LeaseEvent::Release), Action::Lose(LossReason::MaxHold));
}

#[test]
fn r06_a_lost_lease_stays_lost() {
    let mut state = held();
    state.on(after(1.0), LeaseEvent::Gone);
    for event in [
        LeaseEvent::Tick,
        LeaseEvent::Renewed { sent: after(1.0), ttl: TTL, epoch: 0 },
        LeaseEvent::Release,
        LeaseEvent::Extend { ttl: TTL },
    ] {
        assert_eq!(state.on(after(2.0), event), Action::Wait);
        assert_eq!(state.status(), Status::Lost(LossReason::Gone));
    }
}

#[test]
fn a_shorter_extension_lowers_validity_before_it_is_sent() {
    let mut state = held();
    state.on(after(1.0), LeaseEvent::Extend { ttl: Duration::from_secs(5) });
    assert_eq!(state.valid_until(), after(1.0) + Duration::from_millis(4948));
    assert_eq!(state.ttl(), Duration::from_secs(5));
}

#[test]
fn a_renewal_that_left_before_an_extension_does_not_undo_it() {
    let mut state = renewing();
    state.on(after(10.1), LeaseEvent::Extend { ttl: Duration::from_secs(5) });
    let short = state.valid_until();
    state.on(after(10.2), LeaseEvent::Renewed { sent: after(10.0), ttl: TTL, epoch: 0 });
    assert_eq!(state.valid_until(), short);
    state.on(after(10.3), LeaseEvent::Renewed { sent: after(10.1), ttl: Duration::from_secs(5), epoch: 1 });
    assert_eq!(state.valid_until(), short);
}

#[test]
fn r01_a_renewal_that_overtakes_a_shorter_extension_does_not_count_on_the_longer_life() {
    let mut state = renewing();
    state.on(after(10.0), LeaseEvent::Extend { ttl: Duration::from_secs(5) });
    // Executed before the extension, which is on its way on another connection: the backend still had all of the longer life.
    state.on(after(10.2), LeaseEvent::Renewed { sent: after(10.1), ttl: Duration::from_secs(28), epoch: 1 });
    assert!(state.valid_until() < after(15.1));
}

#[test]
fn an_unanswered_shorter_extension_casts_its_shadow_until_it_can_no_longer_be_executed() {
    let short = Duration::from_secs(5);
    let mut state = held();
    state.on(after(1.0), LeaseEvent::Extend { ttl: short });
    state.on(after(2.0), LeaseEvent::ExtendUnknown { ttl: short, late: after(3.0) });
    state.on(after(2.1), LeaseEvent::Extend { ttl: TTL });
    state.on(after(2.2), LeaseEvent::Renewed { sent: after(2.1), ttl: TTL, epoch: 2 });
    assert_eq!(state.valid_until(), after(2.1) + Duration::from_millis(4948));
    state.on(after(3.5), LeaseEvent::Renewed { sent: after(3.2), ttl: TTL, epoch: 2 });
    assert_eq!(state.valid_until(), after(3.2) + TTL - Duration::from_millis(302));
}

#[test]
fn r12_a_hung_holder_ends_at_max_hold() {
    let mut state = LeaseState::granted(SENT, TTL, Terms { max_hold: Some(Duration::from_secs(7)), ..terms() });
    assert_eq!(state.next_deadline(), Some(after(7.0)));
    assert_eq!(state.valid_until(), after(7.0));
    assert!(!state.is_valid(after(7.0)));
    assert_eq!(state.run_out(after(7.0)), Some(LossReason::MaxHold), "whoever looks before the tick is told the same");
    assert_eq!(state.on(after(7.0), LeaseEvent::Tick), Action::Lose(LossReason::MaxHold));
}

#[test]
fn without_renewal_only_the_end_is_left() {
    let mut state = LeaseState::granted(SENT, TTL, Terms { renew: false, ..terms() });
    assert_eq!(state.next_deadline(), Some(state.valid_until()));
    assert_eq!(state.on(after(20.0), LeaseEvent::Tick), Action::Wait);
    state.set_renew(after(20.0), true);
    assert_eq!(state.on(after(20.0), LeaseEvent::Tick), Action::Renew);
}

#[test]
fn lag_counts_from_when_a_renewal_was_due_through_failed_tries() {
    let mut state = renewing();
    assert_eq!(state.lag(after(9.0)), Duration::ZERO);
    state.on(after(12.0), UNKNOWN);
    assert_eq!(state.lag(after(13.0)), Duration::from_secs(3));
    assert!(
        !state.is_lagging(after(12.4)) && state.is_lagging(after(12.6)),
        "late by a quarter of the ten seconds between renewals"
    );
    state.on(after(14.0), LeaseEvent::Renewed { sent: after(13.0), ttl: TTL, epoch: 0 });
    assert_eq!(state.lag(after(14.0)), Duration::ZERO);
}

#[test]
fn at_risk_is_what_has_lost_half_of_the_life_left_when_renewal_was_due() {
    let state = held();
    assert!(!state.is_at_risk(after(19.0)) && state.is_at_risk(after(20.0)));
    let unrenewed = LeaseState::granted(SENT, TTL, Terms { renew: false, ..terms() });
    assert!(!unrenewed.is_at_risk(after(29.0)), "it is meant to end");
    let mut released = held();
    released.on(after(20.0), LeaseEvent::Release);
    assert!(!released.is_at_risk(after(25.0)) && released.lag(after(25.0)).is_zero());
}

fn stalling() -> LeaseState {
    let mut state = LeaseState::granted(SENT, TTL, Terms { max_stall: Some(Duration::from_secs(2)), ..terms() });
    assert_eq!(state.on(after(0.5), LeaseEvent::Heartbeat), Action::Wait);
    state
}

#[test]
fn r12_max_stall_ends_a_lease_whose_holder_gives_no_sign() {
    let mut state = stalling();
    assert_eq!(state.next_deadline(), Some(after(2.5)));
    assert_eq!(state.on(after(2.4), LeaseEvent::Heartbeat), Action::Wait);
    assert_eq!(state.next_deadline(), Some(after(4.4)));
    assert_eq!(state.on(after(2.5), LeaseEvent::Tick), Action::Wait, "the deadline was moved");
    assert!(state.is_valid(after(4.39)));
    assert!(!state.is_valid(after(4.4)), "by the clock, told or not");
    assert_eq!(state.on(after(4.4), LeaseEvent::Tick), Action::Lose(LossReason::MaxStall));
}

#[test]
fn r12_a_sign_of_life_that_comes_too_late_is_a_loss() {
    let mut state = stalling();
    assert_eq!(state.on(after(2.6), LeaseEvent::Heartbeat), Action::Lose(LossReason::MaxStall));
    assert_eq!(state.on(after(2.7), LeaseEvent::Heartbeat), Action::Wait);
    assert_eq!(state.status(), Status::Lost(LossReason::MaxStall));
}

#[test]
fn r12_without_max_stall_signs_of_life_change_nothing() {
    let mut state = held();
    state.on(after(1.0), LeaseEvent::Heartbeat);
    assert_eq!(state.next_deadline(), Some(after(10.0)));
}

#[test]
fn r12_renewal_does_not_save_a_stalled_lease() {
    let terms = Terms { max_stall: Some(Duration::from_secs(15)), ..terms() };
    let mut state = LeaseState::granted(SENT, TTL, terms);
    state.on(SENT, LeaseEvent::Heartbeat);
    assert_eq!(state.on(after(10.0), LeaseEvent::Tick), Action::Renew);
    state.on(after(10.1), LeaseEvent::Renewed { sent: after(10.0), ttl: TTL, epoch: 0 });
    assert_eq!(state.on(after(15.0), LeaseEvent::Tick), Action::Lose(LossReason::MaxStall));
}

#[test]
fn r03_the_pauses_after_unanswered_renewals_are_those_that_were_asked_for() {
    let backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_millis(300) };
    let mut state = renewing();
    for pause in [0.2, 0.3, 0.3] {
        state.on(after(11.0), LeaseEvent::Unknown { backoff });
        assert_eq!(state.next_deadline(), Some(after(11.0 + pause)));
        assert_eq!(state.on(after(11.0 + pause), LeaseEvent::Tick), Action::Renew);
    }
}

#[test]
fn r05_a_shorter_life_need_not_have_reached_the_backend() {
    let mut state = held();
    state.on(after(1.0), LeaseEvent::Extend { ttl: 2 * TTL });
    state.on(after(2.0), LeaseEvent::Extend { ttl: TTL / 3 });
    assert_eq!(
        (state.ttl(), state.longest_ttl()),
        (TTL / 3, 2 * TTL),
        "a release is retried for as long as the backend may keep the key"
    );
}

#[test]
fn r03_a_lease_that_nobody_looks_after_is_lost_at_once() {
    let mut state = renewing();
    assert_eq!(state.on(after(11.0), LeaseEvent::Unattended), Action::Lose(LossReason::Expired));
    assert!(!state.is_valid(after(11.0)));
    let mut released = held();
    assert_eq!(released.on(after(1.0), LeaseEvent::Release), Action::Release);
    assert_eq!(released.on(after(2.0), LeaseEvent::Unattended), Action::Wait);
}
