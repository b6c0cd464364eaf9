"""Tensors of the architectures people merge fall into the groups their names mean."""

import pytest

from merging.groups import Group, group_of, groups_of

NAMES = {
    "Llama, Mistral, Qwen2": [
        ("model.embed_tokens.weight", "embeddings"),
        ("model.layers.0.self_attn.q_proj.weight", "layer.0.attention"),
        ("model.layers.0.self_attn.q_proj.bias", "layer.0.attention"),
        ("model.layers.31.self_attn.o_proj.weight", "layer.31.attention"),
        ("model.layers.0.mlp.gate_proj.weight", "layer.0.mlp"),
        ("model.layers.0.mlp.down_proj.weight", "layer.0.mlp"),
        ("model.layers.0.input_layernorm.weight", "layer.0.norms"),
        ("model.layers.0.post_attention_layernorm.weight", "layer.0.norms"),
        ("model.norm.weight", "norms"),
        ("lm_head.weight", "head"),
    ],
    "Qwen3, Gemma": [
        ("model.layers.2.self_attn.q_norm.weight", "layer.2.norms"),
        ("model.layers.2.pre_feedforward_layernorm.weight", "layer.2.norms"),
        ("model.layers.2.post_feedforward_layernorm.weight", "layer.2.norms"),
        ("language_model.model.layers.2.mlp.up_proj.weight", "layer.2.mlp"),
    ],
    "Mixtral, Qwen MoE, DBRX": [
        ("model.layers.1.block_sparse_moe.gate.weight", "layer.1.mlp"),
        ("model.layers.1.block_sparse_moe.experts.7.w1.weight", "layer.1.mlp"),
        ("model.layers.1.mlp.shared_expert.up_proj.weight", "layer.1.mlp"),
        ("transformer.blocks.3.norm_attn_norm.attn.Wqkv.weight", "layer.3.attention"),
        ("transformer.blocks.3.norm_attn_norm.norm_1.weight", "layer.3.norms"),
    ],
    "GPT-2": [
        ("transformer.wte.weight", "embeddings"),
        ("wpe.weight", "embeddings"),
        ("h.11.ln_1.weight", "layer.11.norms"),
        ("transformer.h.11.attn.c_attn.weight", "layer.11.attention"),
        ("transformer.h.11.attn.c_proj.bias", "layer.11.attention"),
        ("transformer.h.11.mlp.c_fc.weight", "layer.11.mlp"),
        ("transformer.ln_f.bias", "norms"),
    ],
    "GPT-NeoX": [
        ("gpt_neox.embed_in.weight", "embeddings"),
        ("gpt_neox.layers.5.attention.query_key_value.weight", "layer.5.attention"),
        ("gpt_neox.layers.5.attention.dense.weight", "layer.5.attention"),
        ("gpt_neox.layers.5.mlp.dense_4h_to_h.bias", "layer.5.mlp"),
        ("gpt_neox.final_layer_norm.weight", "norms"),
        ("embed_out.weight", "head"),
    ],
    "Falcon": [
        ("transformer.word_embeddings.weight", "embeddings"),
        ("transformer.h.0.self_attention.dense.weight", "layer.0.attention"),
        ("transformer.h.0.ln_attn.weight", "layer.0.norms"),
        ("transformer.h.0.ln_mlp.weight", "layer.0.norms"),
        ("transformer.h.0.mlp.dense_h_to_4h.weight", "layer.0.mlp"),
    ],
    "Phi": [
        ("model.layers.4.self_attn.dense.weight", "layer.4.attention"),
        ("model.layers.4.self_attn.qkv_proj.weight", "layer.4.attention"),
        ("model.layers.4.mlp.fc2.weight", "layer.4.mlp"),
        ("model.final_layernorm.bias", "norms"),
        ("lm_head.bias", "head"),
    ],
    "OPT": [
        ("model.decoder.embed_tokens.weight", "embeddings"),
        ("model.decoder.embed_positions.weight", "embeddings"),
        ("model.decoder.layers.9.self_attn.out_proj.weight", "layer.9.attention"),
        ("model.decoder.layers.9.self_attn_layer_norm.weight", "layer.9.norms"),
        ("model.decoder.layers.9.fc1.weight", "layer.9.mlp"),
        ("model.decoder.layers.9.final_layer_norm.bias", "layer.9.norms"),
    ],
    "BERT": [
        ("bert.embeddings.word_embeddings.weight", "embeddings"),
        ("bert.embeddings.LayerNorm.gamma", "norms"),
        ("bert.encoder.layer.3.attention.self.query.weight", "layer.3.attention"),
        ("bert.encoder.layer.3.attention.output.dense.weight", "layer.3.attention"),
        ("bert.encoder.layer.3.attention.output.LayerNorm.weight", "layer.3.norms"),
        ("bert.encoder.layer.3.intermediate.dense.weight", "layer.3.mlp"),
        ("bert.encoder.layer.3.output.dense.bias", "layer.3.mlp"),
        ("bert.pooler.dense.weight", "head"),
        ("cls.predictions.transform.dense.weight", "head"),
        ("cls.predictions.bias", "head"),
        ("classifier.weight", "head"),
        ("qa_outputs.weight", "head"),
    ],
    "ViT and CLIP": [
        ("vit.embeddings.cls_token", "embeddings"),
        ("vit.embeddings.patch_embeddings.projection.weight", "embeddings"),
        ("vit.encoder.layer.0.attention.attention.key.weight", "layer.0.attention"),
        ("vit.encoder.layer.0.layernorm_before.weight", "layer.0.norms"),
        ("vit.encoder.layer.0.intermediate.dense.weight", "layer.0.mlp"),
        ("vit.layernorm.weight", "norms"),
        ("blocks.7.attn.qkv.weight", "layer.7.attention"),
        ("blocks.7.norm1.weight", "layer.7.norms"),
        ("patch_embed.proj.weight", "embeddings"),
        ("pos_embed", "embeddings"),
        ("head.weight", "head"),
        ("vision_model.pre_layrnorm.weight", "norms"),
        ("visual.transformer.resblocks.2.attn.in_proj_weight", "layer.2.attention"),
        ("visual.transformer.resblocks.2.ln_2.weight", "layer.2.norms"),
    ],
    "Swin, ConvNeXt, ResNet": [
        ("swin.encoder.layers.2.blocks.5.attention.self.query.weight", "layer.2.attention"),
        ("swin.encoder.layers.2.blocks.5.output.dense.weight", "layer.2.mlp"),
        ("swin.encoder.layers.2.downsample.reduction.weight", "layer.2.other"),
        ("convnext.encoder.stages.3.layers.1.pwconv1.weight", "layer.3.mlp"),
        ("resnet.embedder.embedder.convolution.weight", "embeddings"),
        ("resnet.encoder.stages.3.layers.1.layer.0.convolution.weight", "layer.3.other"),
        ("resnet.encoder.stages.3.layers.1.layer.0.normalization.weight", "layer.3.norms"),
        ("resnet.encoder.stages.3.layers.1.layer.0.normalization.running_var", "layer.3.norms"),
        ("classifier.1.weight", "head"),
        ("layer4.2.conv1.weight", "layer.4.other"),
        ("layer4.2.bn1.running_mean", "layer.4.norms"),
    ],
    "U-Net of diffusers": [
        ("conv_in.weight", "embeddings"),
        ("time_embedding.linear_1.weight", "embeddings"),
        ("down_blocks.2.resnets.1.conv1.weight", "layer.2.other"),
        ("down_blocks.2.resnets.1.norm1.weight", "layer.2.norms"),
        ("down_blocks.2.resnets.1.time_emb_proj.weight", "layer.2.other"),
        ("down_blocks.2.attentions.0.proj_in.weight", "layer.2.attention"),
        ("down_blocks.2.attentions.0.transformer_blocks.3.attn1.to_q.weight", "layer.2.attention"),
        ("down_blocks.2.attentions.0.transformer_blocks.3.ff.net.0.proj.weight", "layer.2.mlp"),
        ("down_blocks.2.attentions.0.transformer_blocks.3.norm2.weight", "layer.2.norms"),
        ("down_blocks.2.downsamplers.0.conv.weight", "layer.2.other"),
        ("mid_block.attentions.0.transformer_blocks.3.attn2.to_out.0.weight", "layer.100.attention"),
        ("mid_block.resnets.1.conv2.weight", "layer.100.other"),
        ("up_blocks.2.attentions.1.transformer_blocks.0.attn1.to_v.weight", "layer.202.attention"),
        ("up_blocks.2.upsamplers.0.conv.weight", "layer.202.other"),
        ("conv_norm_out.weight", "norms"),
        ("conv_out.bias", "head"),
    ],
    "U-Net in one file": [
        ("model.diffusion_model.time_embed.0.weight", "embeddings"),
        ("model.diffusion_model.input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight", "layer.8.attention"),
        ("model.diffusion_model.input_blocks.8.0.in_layers.2.weight", "layer.8.other"),
        ("model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2.weight", "layer.100.mlp"),
        ("model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm3.bias", "layer.211.norms"),
    ],
    "Diffusion transformers": [
        ("x_embedder.weight", "embeddings"),
        ("time_text_embed.timestep_embedder.linear_1.weight", "embeddings"),
        ("transformer_blocks.18.attn.to_q.weight", "layer.18.attention"),
        ("transformer_blocks.18.ff_context.net.0.proj.weight", "layer.18.mlp"),
        ("single_transformer_blocks.0.proj_mlp.weight", "layer.100.mlp"),
        ("double_blocks.3.img_attn.qkv.weight", "layer.3.attention"),
        ("single_blocks.3.linear1.weight", "layer.103.other"),
    ],
    "T5, InternLM2, Mamba": [
        ("shared.weight", "embeddings"),
        ("encoder.block.0.layer.1.DenseReluDense.wi.weight", "layer.0.mlp"),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "layer.0.attention"),
        ("encoder.block.0.layer.0.layer_norm.weight", "layer.0.norms"),
        ("model.layers.0.attention.wqkv.weight", "layer.0.attention"),
        ("model.layers.0.ffn_norm.weight", "layer.0.norms"),
        ("model.tok_embeddings.weight", "embeddings"),
        ("output.weight", "head"),
        ("backbone.layers.6.mixer.A_log", "layer.6.other"),
    ],
}


@pytest.mark.parametrize("architecture", NAMES)
def test_every_tensor_of_an_architecture_has_its_group(architecture: str) -> None:
    found = {name: group_of(name).name for name, _ in NAMES[architecture]}
    assert found == dict(NAMES[architecture])


def test_groups_come_once_each_layers_by_depth_and_the_rest_last() -> None:
    names = ["lm_head.weight", "model.layers.10.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"]
    names += ["model.layers.2.self_attn.q_proj.weight", "model.layers.2.mlp.down_proj.weight"]
    assert groups_of(names) == [
        Group(2, "attention"),
        Group(2, "mlp"),
        Group(10, "mlp"),
        Group(None, "head"),
    ]


def test_a_unets_ways_down_and_up_are_different_depths() -> None:
    names = ["up_blocks.0.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.weight", "conv_out.weight"]
    names += ["down_blocks.0.resnets.0.conv1.weight", "down_blocks.1.resnets.0.conv1.weight"]
    assert [group.name for group in groups_of(names)] == [
        "layer.0.other",
        "layer.1.other",
        "layer.100.other",
        "layer.200.other",
        "head",
    ]
