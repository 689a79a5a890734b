//! Attention: packed documents forward and backward, and pages, for a prompt and for a step of generation.

use super::{Case, Lab, Outputs, Sizes};
use crate::{
    base::Result,
    ops::attention::{self, Heads, Mask, Pages, Scope},
    tensor::Buf,
};

/// H, K, D, and two document lengths; an empty document stands between them.
const PACKED: &[Sizes] = &[
    [1, 1, 8, 1, 1],
    [2, 1, 16, 5, 70],
    [4, 2, 64, 130, 33],
    [3, 3, 128, 65, 64],
    [2, 1, 256, 40, 17],
    [2, 2, 80, 31, 100],
    [1, 1, 64, 259, 129],
    [1, 1, 128, 195, 66],
];
/// H, K, D, tokens already in pages, and new tokens of the first sequence; the second brings one.
const PAGED: &[Sizes] = &[
    [1, 1, 8, 0, 1],
    [4, 2, 64, 37, 1],
    [4, 1, 64, 100, 30],
    [2, 2, 128, 63, 65],
    [8, 2, 64, 700, 1],
    [2, 1, 64, 150, 140],
    [20, 1, 80, 300, 1],
    [2, 1, 256, 200, 1],
    [2, 1, 64, 4500, 1],
];

pub const CASES: &[Case] = &[
    Case { kernel: "attention forward", letters: "HKDTt", shapes: PACKED, run: forward },
    Case { kernel: "attention backward", letters: "HKDTt", shapes: PACKED, run: backward },
    Case { kernel: "attention over pages", letters: "HKDPT", shapes: PAGED, run: paged },
    // What cards without kernels of their own do.
    Case {
        kernel: "attention forward, portable",
        letters: "HKDTt",
        shapes: PACKED,
        run: |lab, sizes| forward(lab.portable(), sizes),
    },
    Case {
        kernel: "attention backward, portable",
        letters: "HKDTt",
        shapes: PACKED,
        run: |lab, sizes| backward(lab.portable(), sizes),
    },
    Case {
        kernel: "attention over pages, portable",
        letters: "HKDPT",
        shapes: PAGED,
        run: |lab, sizes| paged(lab.portable(), sizes),
    },
];

fn bounds(lab: &Lab, lengths: &[usize]) -> Result<Buf> {
    let ends = lengths.iter().scan(0, |end, &length| {
        *end += length as u32;
        Some(*end)
    });
    let bounds: Vec<u32> = std::iter::once(0).chain(ends).collect();
    lab.exec.upload([bounds.len()], &bounds)
}

/// What models attend by.
const MASKS: [(&str, Mask); 3] =
    [("causal", Mask::CAUSAL), ("full", Mask::FULL), ("window", Mask { causal: true, window: Some(20) })];

fn forward(lab: &mut Lab, [h, k, d, first, second]: Sizes) -> Result<Outputs> {
    let (heads, n) = (Heads { query: h, key_value: k, dim: d }, first + second);
    let (qkv, bounds) = (lab.normal([n, heads.row_count()], 1.0)?, bounds(lab, &[first, 0, second])?);
    let mut all = Vec::new();
    for (name, mask) in MASKS {
        let (mut o, mut lse) = (lab.output([n, h * d])?, lab.output_accumulator([n, h])?);
        let scope = Scope { bounds: bounds.view(), mask, pages: None };
        attention::forward(&lab.exec, qkv.view(), heads, scope, o.view_mut(), lse.view_mut())?;
        all.extend(lab.outputs([(name, &o), (name, &lse)])?.0);
    }
    Ok(Outputs(all))
}

fn backward(lab: &mut Lab, [h, k, d, first, second]: Sizes) -> Result<Outputs> {
    let (heads, n) = (Heads { query: h, key_value: k, dim: d }, first + second);
    let (dout, bounds) = (lab.normal([n, h * d], 1.0)?, bounds(lab, &[first, 0, second])?);
    let mut all = Vec::new();
    for (name, mask) in MASKS {
        let mut qkv = lab.normal([n, heads.row_count()], 1.0)?;
        let (mut o, mut lse) = (lab.output([n, h * d])?, lab.output_accumulator([n, h])?);
        let scope = Scope { bounds: bounds.view(), mask, pages: None };
        attention::forward(&lab.exec, qkv.view(), heads, scope, o.view_mut(), lse.view_mut())?;
        let (o, lse) = (o.view(), lse.view());
        attention::backward(&lab.exec, dout.view(), o, lse, qkv.view_mut(), heads, scope)?;
        all.extend(lab.outputs([(name, &qkv)])?.0);
    }
    Ok(Outputs(all))
}

fn paged(lab: &mut Lab, [h, k, d, past, new]: Sizes) -> Result<Outputs> {
    const PAGE_LEN: usize = 16;
    const SHORT: usize = 5;
    let heads = Heads { query: h, key_value: k, dim: d };
    let contexts = [past + new, SHORT];
    let pages = contexts.map(|context: usize| context.div_ceil(PAGE_LEN));
    let slots = (pages[0] + pages[1]) * PAGE_LEN;
    let (keys, values) = (lab.normal([k, slots, d], 1.0)?, lab.normal([k, slots, d], 1.0)?);
    // The first sequence has the last pages, in falling order; the second the first.
    let mut tables: Vec<u32> = (pages[1]..pages[0] + pages[1]).rev().map(|page| page as u32).collect();
    tables.resize(2 * pages[0].max(pages[1]), 0);
    let width = tables.len() / 2;
    (0..pages[1]).for_each(|page| tables[width + page] = page as u32);
    let tables = lab.exec.upload([2, width], &tables)?;
    let contexts = lab.exec.upload([2], &contexts.map(|context| context as u32))?;
    let (qkv, bounds) = (lab.normal([new + 1, heads.row_count()], 1.0)?, bounds(lab, &[new, 1])?);
    let (mut o, mut lse) = (lab.output([new + 1, h * d])?, lab.output_accumulator([new + 1, h])?);
    let pages = Pages {
        keys: keys.view(),
        values: values.view(),
        tables: tables.view(),
        contexts: contexts.view(),
        page_len: PAGE_LEN,
    };
    let scope = Scope { bounds: bounds.view(), mask: Mask::CAUSAL, pages: Some(pages) };
    attention::forward(&lab.exec, qkv.view(), heads, scope, o.view_mut(), lse.view_mut())?;
    lab.outputs([("o", &o), ("lse", &lse)])
}
