use super::super::table::Operator;
use super::*;
use crate::cost::collectives::{Line, Protocols};
use crate::cost::gemm::{GemmForm, GemmWork};
use crate::hardware::{self, Gpu};

fn a10g() -> Gpu {
    hardware::gpu("a10g").unwrap()
}

/// Rows that a known surface gives, and one of weights that stayed in L2.
fn table(gpu: &Gpu, form: &GemmForm) -> Vec<Timing> {
    let mut rows = Vec::new();
    for (n, k) in [(4096, 4096), (12288, 4096), (4096, 11008), (22016, 4096), (5120, 5120)] {
        for m in [1, 4, 16, 64, 128, 512, 1024, 4096] {
            let work = GemmWork::dense(m as f64, n as f64, k as f64, 2.0);
            rows.push(Timing {
                gpu: gpu.name.clone(),
                dtype: "fp16".into(),
                operator: Operator::Gemm { m, n, k },
                seconds: form.seconds(&work),
                source: "test".into(),
            });
        }
    }
    let mut cached = rows[0].clone();
    cached.seconds = 1e-5;
    rows.push(cached);
    rows
}

#[test]
fn a_surface_comes_back_from_its_own_rows() {
    let gpu = a10g();
    let known = GemmForm { peak_limit: 80e12, ..GemmForm::A10G };
    let rows = table(&gpu, &known);
    let rows: Vec<&Timing> = rows.iter().collect();
    let rows = Rows { gpu: &gpu, timings: &rows, origin: Origin::Tables };
    let surface = gemm(&rows, &Precision::HALF).unwrap();
    let dropped: Vec<_> = surface.dropped.iter().collect();
    assert_eq!(dropped, [("GEMM: faster than DRAM, the weights were in L2", 1)]);
    assert!(surface.fits[0].median_percent < 1.5, "{:?}", surface.fits);
    assert!((surface.form.bandwidth / known.bandwidth - 1.0).abs() < 0.03, "{surface:?}");
}

#[test]
fn too_few_rows_are_no_surface() {
    for origin in [Origin::Tables, Origin::Probes] {
        let rows = Rows { gpu: &a10g(), timings: &[], origin };
        assert!(gemm(&rows, &Precision::HALF).is_none());
        assert!(decode(&rows).is_none());
    }
}

#[test]
fn outliers_count_less_than_their_square() {
    assert!((soft(0.01) - 0.01).abs() < 1e-4);
    assert!(soft(-1.0) > -0.5 && soft(-1.0) < -0.1);
}

#[test]
fn every_probe_is_held_out_once_and_a_part_of_a_table() {
    let sample = |key| Sample {
        shape: (),
        seconds: 1.0,
        source: "test".into(),
        key,
        row: key,
        region: "all",
    };
    for keys in [1, 3, 8, 42] {
        let samples: Vec<_> = (0..keys).chain(0..keys).map(sample).collect();
        let held = held_out_keys(Origin::Probes, &samples);
        assert!(held.iter().all(|fold| fold.is_sorted() && !fold.is_empty()), "{held:?}");
        let mut all: Vec<u64> = held.concat();
        all.sort_unstable();
        assert_eq!(all, (0..keys).collect::<Vec<_>>());
        let of_table = held_out_keys(Origin::Tables, &samples);
        assert_eq!(of_table.iter().map(Vec::len).collect::<Vec<_>>(), [keys as usize * 2 / 5]);
    }
}

#[test]
fn two_ways_of_sending_come_back_from_the_messages_that_they_made() {
    let messages = Messages {
        surface: "nccl",
        link: "here",
        implementation: "NCCL",
        source: "test",
        largest: 64 << 20,
        nominal: 300e9,
    };
    let mut rows = Vec::new();
    for (ranks, short, long) in [(2u32, 40e9, 180e9), (8, 100e9, 220e9)] {
        let p = f64::from(ranks);
        let line = |latency, bus_bandwidth| Line { latency, bus_bandwidth };
        let protocols = Protocols {
            short: line(6e-6 + 2e-6 * p, short),
            bulk: Some(line(20e-6 + 6e-6 * p, long)),
        };
        for power in 9..=28 {
            let bytes = 1u64 << power;
            let operator = Operator::AllReduce {
                link: "here".into(),
                implementation: "NCCL".into(),
                ranks,
                bytes,
            };
            rows.push(Timing {
                gpu: "a100-80gb".into(),
                dtype: "bf16".into(),
                operator,
                seconds: protocols.seconds(2.0 * (p - 1.0) / p * bytes as f64),
                source: "test".into(),
            });
        }
    }
    let rows: Vec<&Timing> = rows.iter().collect();
    let fitted = messages.fit(&rows).unwrap();
    // Those beyond the longest that counts are not asked.
    assert_eq!((fitted.rows, &fitted.form.ranks), (36, &vec![2, 8]));
    assert!(fitted.fits[0].p90_percent < 2.0, "{:?}", fitted.fits);
    assert!((fitted.form.bulk.bandwidth[1] / 220e9 - 1.0).abs() < 0.03, "{fitted:?}");
    assert!((fitted.form.short.bandwidth[0] / 40e9 - 1.0).abs() < 0.05, "{fitted:?}");
    let other = Messages { implementation: "vllm_graph", ..messages };
    assert!(other.fit(&rows).is_none(), "no rows are no links");
}
