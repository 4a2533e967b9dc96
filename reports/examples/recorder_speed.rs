//! What does watching cost? Tells a recorder the facts of a large fleet as fast as it takes them:
//! `cargo run --release -p aril-reports --example recorder_speed -- [REPLICAS] [REQUESTS] [tables]`.

use std::time::Instant;

use aril_reports::{Recorder, RecorderSettings};
use aril_sim::fact::{End, Fact, Life, Observer, Row, Rows, Stretch, Waits};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{
    Adapter, AdapterId, Catalog, Offered, Outcome, ReplicaId, Request, RequestId, Tenant, TenantId,
};

const ROWS: usize = 32;
const ADAPTERS: u32 = 10_000;
const TENANTS: u32 = 1_000;
/// Stretches that contain a request, of so many steps each.
const STRETCHES: u32 = 96;
const STEPS: u32 = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, default: u32| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (replicas, requests) = (number(0, 1_000), number(1, 300_000));
    let tables = arguments.iter().any(|argument| argument == "tables");
    let catalog = Catalog {
        tenants: (0..TENANTS).map(|i| Tenant { name: format!("tenant-{i}"), weight: 1.0, slo_class: 0 }).collect(),
        adapters: (0..ADAPTERS)
            .map(|i| Adapter { name: format!("adapter-{i}"), rank: 16, bytes: 40_000_000, owner: None })
            .collect(),
    };
    let fleet = replicas as usize;
    let settings = RecorderSettings {
        replica_gpus: vec![1; fleet],
        replica_pool: vec!["pool".to_owned(); fleet],
        replicas_on: vec![true; fleet],
        max_num_seqs: ROWS as u32,
        tables,
        ..RecorderSettings::default()
    };
    let folder = tempfile::tempdir()?;
    let mut recorder = Recorder::create(folder.path(), catalog.clone(), settings)?;
    let begin = Instant::now();
    let (facts, end) = tell(&mut recorder, replicas, requests);
    let told = begin.elapsed();
    let result = recorder.finish(end)?;
    let finished = begin.elapsed();
    println!(
        "{facts} facts, {} stretches of {ROWS} rows, {requests} requests, tables: {tables}",
        result.metrics.gpu.stretches
    );
    println!("told in {:.2} s: {:.0} ns a fact", told.as_secs_f64(), told.as_nanos() as f64 / facts as f64);
    println!("measured in {:.2} s", (finished - told).as_secs_f64());
    for entry in std::fs::read_dir(folder.path())? {
        let entry = entry?;
        println!("{}: {:.1} MB", entry.file_name().to_string_lossy(), entry.metadata()?.len() as f64 / 1e6);
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    }
    Ok(())
}

/// Full batches everywhere, all in step with each other: times of facts never decrease.
fn tell(recorder: &mut Recorder, replicas: u32, requests: u32) -> (u64, Time) {
    let mut fleet: Vec<Vec<(Offered, u32)>> = vec![Vec::new(); replicas as usize];
    let (mut facts, mut next, mut now) = (0u64, 0u32, Time::ZERO);
    let step = Span::from_ms(30) + Span::from_ps(1_234_567);
    let mut rows: Vec<Row> = Vec::with_capacity(ROWS);
    loop {
        for (index, running) in fleet.iter_mut().enumerate() {
            let replica = ReplicaId(index as u32);
            while next < requests && running.len() < ROWS {
                let offered = offer(next, now);
                next += 1;
                let id = offered.request.id;
                recorder.observe(now, &Fact::Offered(&offered));
                recorder.observe(now, &Fact::Routed { request: id, replica, recompute: 0 });
                recorder.observe(now, &Fact::Scheduled { request: id, replica });
                facts += 3;
                running.push((offered, 0));
            }
        }
        let mut busy = false;
        for (index, running) in fleet.iter_mut().enumerate().filter(|(_, running)| !running.is_empty()) {
            let replica = ReplicaId(index as u32);
            busy = true;
            rows.clear();
            rows.extend(running.iter().map(|(offered, age)| Row {
                request: offered.request.id,
                adapter: offered.request.adapter,
                previous_token: (*age > 0).then_some(now),
                tokens: 1,
                prefill: *age == 0,
                emits: true,
            }));
            let stretch = Stretch {
                replica,
                start: now,
                stall: Span::ZERO,
                first: step,
                increment: Span::from_us(2),
                steps: STEPS,
                rows: Rows::Listed(&rows),
                same_rows: 0,
                padding_rows: 0,
                segments: 20,
                decode_context_sum: 10_000,
                kv_blocks_used: 1_000,
                waiting: 0,
            };
            let end = stretch.end();
            recorder.observe(end, &Fact::Stretch(stretch));
            facts += 1;
            running.iter_mut().for_each(|(_, age)| *age += 1);
            let life_span = STRETCHES + index as u32 % 7;
            while let Some(place) = running.iter().position(|(_, age)| *age >= life_span) {
                let (offered, age) = running.swap_remove(place);
                let ttft = step * u64::from(STEPS);
                let life = Life {
                    offered: &offered,
                    end: End::Finished,
                    replica: Some(replica),
                    scheduled: Some(offered.request.arrival),
                    first_token: Some(offered.request.arrival + ttft),
                    emitted: age * STEPS,
                    waits: Waits { prefill: ttft, ..Waits::default() },
                    adapter_hit: Some(age % 2 == 0),
                    preemptions: 0,
                    migrations: 0,
                };
                recorder.observe(end, &Fact::Ended(life));
                facts += 1;
            }
        }
        if !busy {
            return (facts, now);
        }
        now += step * u64::from(STEPS) + Span::from_us(6);
    }
}

fn offer(id: u32, arrival: Time) -> Offered {
    let mixed = u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Offered {
        request: Request {
            id: RequestId(id),
            tenant: TenantId((mixed % u64::from(TENANTS)) as u32),
            adapter: Some(AdapterId((mixed % u64::from(ADAPTERS)) as u32)),
            arrival,
            prompt_tokens: 100 + (mixed % 900) as u32,
            max_tokens: 4_096,
            predicted_output_tokens: None,
            prefix: None,
        },
        outcome: Outcome { output_tokens: STRETCHES * STEPS },
    }
}
