use super::*;
use crate::scenario::diagnostic::{Diagnostics, Sources};
use proptest::prelude::*;

fn read_text(text: &str) -> Result<(TableKind, Vec<Timing>), String> {
    let mut sources = Sources::default();
    let id = sources.add("table.csv", text);
    read(id, text).map_err(|list| Diagnostics::new(sources, list).render(false))
}

const GEMM: &str = "gpu,dtype,m,n,k,seconds,source\nA10,fp16,1,12288,4096,0.00021705,rgs\n";

#[test]
fn the_columns_tell_the_kind() {
    let (kind, rows) = read_text(GEMM).unwrap();
    assert_eq!(kind, TableKind::Gemm);
    assert_eq!(rows[0].operator, Operator::Gemm { m: 1, n: 12288, k: 4096 });
    assert_eq!(rows[0].seconds, 0.00021705);
    let (kind, rows) = read_text(
        "prefill_chunk,kv_prefill,n_decode,kv_decode,gpu,model,tp,num_heads,num_kv_heads,head_dim,seconds,source\n\
         0,0,4,16,RTX4090,x,1,32,8,128,8e-6,lss\n128,64,4,16,RTX4090,x,1,32,8,128,8e-6,lss\n",
    )
    .unwrap();
    assert_eq!(kind, TableKind::MixedAttention);
    assert_eq!(
        rows.iter().map(|r| r.operator.kind()).collect::<Vec<_>>(),
        [TableKind::Attention, TableKind::MixedAttention]
    );
}

#[test]
fn rows_come_back_as_they_are_written() {
    let attention = "gpu,dtype,kv_dtype,batch,new_tokens,past_tokens,num_heads,num_kv_heads,head_dim,window,seconds,source\n\
        l40s,bf16,fp8,4,1,99,32,8,128,0,1.2e-5,me\nl40s,bf16,bf16,2,512,64,32,8,128,0,1e-4,me\n";
    let reduce =
        "gpu,link,num_gpus,bytes,dtype,seconds,impl,source\nl40s,PCIe4,4,1024,fp16,2e-5,NCCL,me\n";
    let small = "gpu,dtype,op,tokens,hidden,ffn,tp,seconds,source\nl40s,bf16,act_fn,4,4096,14336,1,2e-6,me\n";
    for text in [GEMM, attention, reduce, small] {
        let (kind, rows) = read_text(text).unwrap();
        let again = String::from_utf8(to_csv(kind, &rows)).unwrap();
        assert_eq!(read_text(&again).unwrap(), (kind, rows));
    }
}

#[test]
fn a_missing_column_is_named_with_what_is_needed() {
    let error = read_text("gpu,dtype,m,n,k,time_us,source\nA10,fp16,1,2,3,4,x\n").unwrap_err();
    assert!(error.contains("the GEMM table has no column `seconds`"), "{error}");
    assert!(error.contains("convert `time_us` to seconds"), "{error}");
    let error = read_text("a,b\n1,2\n").unwrap_err();
    assert!(error.contains("no operator table that servesim knows"), "{error}");
}

#[test]
fn a_value_with_a_unit_is_shown_with_its_place() {
    let text = "gpu,dtype,m,n,k,seconds,source\nA10,fp16,1,12288,4096,217us,rgs\n";
    let error = read_text(text).unwrap_err();
    assert!(error.contains("table.csv:2:23") && error.contains("1.25e-5"), "{error}");
    let text = "gpu,dtype,m,n,k,seconds,source\nA10,fp16,0,12288,4096,1e-6,rgs\n";
    assert!(read_text(text).unwrap_err().contains("table.csv:2:10"));
}

#[test]
fn an_empty_or_truncated_table_says_so() {
    assert!(read_text("").unwrap_err().contains("empty"));
    assert!(read_text("gpu,dtype,m,n,k,seconds,source\n").unwrap_err().contains("no rows"));
    let error = read_text("gpu,dtype,m,n,k,seconds,source\nA10,fp16,1").unwrap_err();
    assert!(error.contains("is the file complete?"), "{error}");
}

#[test]
fn published_names_of_gpus_are_known() {
    for (name, known) in
        [("A10", "a10g"), ("A100-SXM4-80GB", "a100-80gb"), ("RTX-PRO-6000", "rtx-pro-6000")]
    {
        assert_eq!(catalogue_gpu(name), Some(known));
    }
    assert_eq!(catalogue_gpu("TPUv5"), None);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\x00-\\x7f\u{feff}é]{0,200}") {
        let _ = read_text(&text);
        let _ = read_text(&format!("gpu,dtype,m,n,k,seconds,source\n{text}"));
    }
}
