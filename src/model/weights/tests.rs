use super::*;
use crate::{
    base::{
        ErrorKind,
        damage::{FIRST_TIER, again_and_again},
    },
    device::Device,
    model::{Decoder, Options, tests::config},
    ops::Exec,
};

fn params(dtype: DType, seed: Option<u64>) -> (Exec, Decoder, Params) {
    let exec = Exec::new(Device::cpu(Some(1)), 1 << 20, 1 << 20).expect("memory");
    let decoder =
        Decoder::new(&exec, &config(), Options { dtype, recompute: false, positions: 8 }).expect("valid");
    let mut params = decoder.new_params(&exec).expect("memory");
    if let Some(seed) = seed {
        params.init(&exec, seed);
    }
    (exec, decoder, params)
}

fn saved(params: &Params) -> Vec<u8> {
    let mut bytes = Vec::new();
    save(params, &config(), &mut bytes).expect("in memory");
    assert_eq!(bytes.len() as u64, len_bytes(params, &config()).expect("a header"));
    bytes
}

fn opened(bytes: &[u8]) -> [WeightsFile<&[u8]>; 1] {
    [WeightsFile::open(bytes).expect("whole")]
}

#[test]
fn what_is_saved_is_loaded_bit_for_bit() {
    let (_exec, decoder, written) = params(DType::F32, Some(3));
    let bytes = saved(&written);
    let (_exec, _, mut read) = params(DType::F32, None);
    let files = opened(&bytes);
    assert_eq!(files[0].config().expect("ours"), config());
    load(&mut read, &files).expect("its own file");
    for (id, _) in decoder.table().iter() {
        assert_eq!(host::slice::<f32>(read.view(id)), host::slice::<f32>(written.view(id)));
    }
    assert_eq!(saved(&read), bytes, "the same weights make the same file");
}

/// The published reader finds every part under its name, fused ones cut where they should be.
#[test]
fn the_published_reader_agrees() {
    let (_exec, decoder, params) = params(DType::F32, Some(3));
    let bytes = saved(&params);
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    assert_eq!(file.len(), 3 + 9 * config().num_hidden_layers);
    let (_, qkv, first, shape) = decoder
        .table()
        .parts()
        .find(|part| part.0 == "model.layers.1.self_attn.v_proj.weight")
        .expect("its name in transformers");
    assert_eq!((first, shape.dims()), (36, [12, 12].as_slice()));
    let rows = host::slice::<f32>(params.view(qkv).slice_rows(first..first + 12));
    let tensor = file.tensor("model.layers.1.self_attn.v_proj.weight").expect("there");
    assert_eq!(tensor.data(), bytemuck::cast_slice::<f32, u8>(rows));
}

#[test]
fn types_are_converted_on_the_way() {
    let (_exec, decoder, written) = params(DType::Bf16, Some(3));
    let bytes = saved(&written);
    let (_exec, _, mut wide) = params(DType::F32, None);
    load(&mut wide, &opened(&bytes)).expect("bf16 to f32");
    let (_exec, _, mut back) = params(DType::Bf16, None);
    load(&mut back, &opened(&saved(&wide))).expect("f32 to bf16");
    for (id, _) in decoder.table().iter() {
        assert_eq!(host::slice::<bf16>(back.view(id)), host::slice::<bf16>(written.view(id)));
    }
}

/// Half precision as others ship it: written by the published library, read into every type.
#[test]
fn half_precision_is_read() {
    let (_exec, decoder, written) = params(DType::F32, Some(3));
    let halves: Vec<(String, Vec<usize>, Vec<u8>)> = decoder
        .table()
        .parts()
        .map(|(name, id, first, shape)| {
            let rows = host::slice::<f32>(written.view(id).slice_rows(first..first + shape.rows()));
            let bytes = rows.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
            (name.to_owned(), shape.dims().to_vec(), bytes)
        })
        .collect();
    let views = halves.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(Dtype::F16, shape.clone(), bytes);
        (name.as_str(), view.expect("shape and bytes agree"))
    });
    let bytes = safetensors::serialize(views, None).expect("in memory");
    let (_exec, _, mut read) = params(DType::F32, None);
    load(&mut read, &opened(&bytes)).expect("f16 to f32");
    for (id, _) in decoder.table().iter() {
        for (found, given) in
            host::slice::<f32>(read.view(id)).iter().zip(host::slice::<f32>(written.view(id)))
        {
            assert_eq!(*found, f16::from_f32(*given).to_f32());
        }
    }
    assert!(opened(&bytes)[0].config().is_err(), "a file from elsewhere carries no configuration of ours");
}

#[test]
fn a_transcript_is_what_would_have_been_saved() {
    let (_exec, decoder, params) = params(DType::F32, Some(3));
    let bytes = saved(&params);
    let files = opened(&bytes);
    let transcript = Transcript::new(&config(), decoder.table(), &files).expect("its own file");
    let mut copy = Vec::new();
    transcript.write(&files, &mut copy).expect("in memory");
    assert_eq!(copy.len() as u64, transcript.len_bytes());
    assert_eq!(copy, bytes);
}

#[test]
fn damaged_files_are_refused() {
    let (_exec, _, params) = params(DType::F32, Some(3));
    let bytes = saved(&params);
    let huge = [u64::MAX.to_le_bytes().as_slice(), &bytes[8..]].concat();
    let long = [&bytes, b"x".as_slice()].concat();
    let not_json = [bytes[..8].to_vec(), vec![b'{'; bytes.len() - 8]].concat();
    for damaged in [&[], &bytes[..4], &bytes[..100], &bytes[..bytes.len() - 1], &huge, &long, &not_json] {
        let error = WeightsFile::open(damaged).err().expect("damaged");
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    }
}

#[test]
fn weights_of_another_model_are_refused() {
    let (_exec, _, params) = params(DType::F32, Some(3));
    let bytes = saved(&params);
    let renamed = |from: &str, to: &str| {
        let mut bytes = bytes.clone();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("there");
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let cases = [
        (renamed("layers.1.mlp.up_proj", "layers.1.mlp.pu_proj"), "lack model.layers.1.mlp.up_proj.weight"),
        (renamed("layers.1.mlp", "layers.7.mlp"), "lack model.layers.1.mlp"),
        (renamed("[29,12]", "[12,29]"), "lm_head.weight has shape [12, 29], not [29, 12]"),
    ];
    for (bytes, says) in cases {
        let (_exec, _, mut into) = self::params(DType::F32, None);
        let error = load(&mut into, &opened(&bytes)).expect_err(says);
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(error.to_string().contains(says), "{error}");
    }
    let shallow = Config { num_hidden_layers: 1, ..config() };
    let exec = Exec::new(Device::cpu(Some(1)), 1 << 20, 1 << 20).expect("memory");
    let options = Options { dtype: DType::F32, recompute: false, positions: 8 };
    let mut into =
        Decoder::new(&exec, &shallow, options).and_then(|decoder| decoder.new_params(&exec)).expect("room");
    let error = load(&mut into, &opened(&bytes)).expect_err("a layer too many");
    assert!(error.to_string().contains("no place for model.layers.1"), "{error}");
    let twice = [
        WeightsFile::open(bytes.as_slice()).expect("whole"),
        WeightsFile::open(bytes.as_slice()).expect("whole"),
    ];
    let (_exec, _, mut into) = self::params(DType::F32, None);
    assert!(load(&mut into, &twice).is_err_and(|error| error.to_string().contains("twice")));
}

/// Of a safetensors file, in the long tier.
const MUTATIONS: u64 = 60_000;

#[test]
fn random_damage_costs_an_error_at_most() {
    withstands_damage(MUTATIONS / FIRST_TIER);
}

#[test]
#[ignore = "the long tier: minutes"]
fn random_damage_always_costs_an_error_at_most() {
    withstands_damage(MUTATIONS);
}

/// Of numbers any are good; what names and places them is refused or means what it says.
fn withstands_damage(mutations: u64) {
    let (_exec, _, params) = params(DType::F32, Some(3));
    let whole = saved(&params);
    let header_bytes =
        whole.len() - opened(&whole)[0].tensors().map(|(_, info)| bytes_of(info)).sum::<usize>();
    let (_exec, _, mut into) = self::params(DType::F32, None);
    let header = whole[..header_bytes].to_vec();
    again_and_again(mutations, 7, &[header], |_, damaged| {
        let file = [damaged, &whole[header_bytes..]].concat();
        let read = WeightsFile::open(file.as_slice()).and_then(|file| {
            // A configuration that does not read is no reason not to load.
            let _ = file.config();
            load(&mut into, &[file])
        });
        if let Err(error) = read {
            assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        }
    });
}

fn bytes_of(info: &TensorInfo) -> usize {
    info.data_offsets.1 - info.data_offsets.0
}
