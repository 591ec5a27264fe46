"""LAVT as one file: image uint8 [H, W, 3] and a sentence in, a mask bool [H, W] out.

The tokenizer is onnxruntime-extensions' BertTokenizer with the vocabulary inside: sessions must register that library.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper, parser

from onnxptq.datasets.prompts import IMAGENET_MEAN, IMAGENET_STD
from onnxptq.datasets.wordpiece import WordPiece
from onnxptq.errors import InputError
from onnxptq.graph.source import whole
from onnxptq.package.image import mask_from_classes, to_square
from onnxptq.package.join import OPSET, join, part, standard_opset


def package_lavt(model: str | Path, vocabulary: str | Path) -> onnx.ModelProto:
    """Join tokenizer, image pre-processing, the model (quantized or not) and its mask."""
    loaded = whole(model)
    opset = max(OPSET, standard_opset(loaded))
    inputs = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in loaded.graph.input}
    sides = inputs.get("image", [])[2:]
    if set(inputs) != {"image", "input_ids", "attention_mask"} or len(sides) != 2 or sides[0] != sides[1]:
        raise InputError(
            f"model {model}: its inputs are {inputs}; package needs image [n, 3, S, S], input_ids, attention_mask"
        )
    size, length = inputs["image"][2], inputs["input_ids"][1]
    if size < 1 or length < 3:
        raise InputError(
            f"model {model}: its image is {inputs['image']} and its input_ids {inputs['input_ids']}; fixed sizes are "
            f"needed"
        )
    post = mask_from_classes()
    for node in post.node:
        for i, name in enumerate(node.input):
            node.input[i] = {"logits": f"lavt/{loaded.graph.output[0].name}"}.get(name, name)
    return join(
        "lavt",
        [part(loaded, "lavt/", opset)],
        [to_square(size, IMAGENET_MEAN, IMAGENET_STD, divide=255.0), tokenizer(vocabulary, length), post],
        inputs=[
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3]),
            helper.make_tensor_value_info("text", TensorProto.STRING, [1]),
        ],
        outputs=[helper.make_tensor_value_info("mask", TensorProto.BOOL, ["height", "width"])],
        links={"lavt/image": "pixels", "lavt/input_ids": "ids", "lavt/attention_mask": "attention"},
        opset=opset,
        about={"package": "lavt: image uint8 [H, W, 3] and a sentence to a mask bool [H, W] of what it names"},
    )


def tokenizer(vocabulary: str | Path, length: int) -> onnx.GraphProto:
    """text [1] -> ids, attention int64 [1, length]: cut so that [SEP] stays, padded with [PAD]."""
    words = WordPiece.load(vocabulary, length)
    graph = parser.parse_graph(
        f"""
        words (string[1] text) => (int64[1, {length}] ids, int64[1, {length}] attention)
        <int64[1] word_axis = {{0}}, int64[1] start1 = {{1}}, int64[1] last = {{-1}}, int64[1] most = {{{length - 2}}},
         int64[1] none = {{0}}, int64[1] limit = {{{length}}}, int64[1] cls = {{{words.ids["[CLS]"]}}},
         int64[1] sep = {{{words.ids["[SEP]"]}}}, int64 pad_id = {{{words.pad}}}, int64 zero_id = {{0}}>
        {{
            inner_ids = Slice (raw_ids, start1, last, word_axis)
            cut_ids = Slice (inner_ids, none, most, word_axis)
            framed = Concat <axis = 0> (cls, cut_ids, sep)
            used = Shape (framed)
            rest = Sub (limit, used)
            tail = Concat <axis = 0> (none, rest)
            flat_ids = Pad (framed, tail, pad_id)
            real = ConstantOfShape <value = int64[1] {{1}}> (used)
            flat_mask = Pad (real, tail, zero_id)
            ids = Unsqueeze (flat_ids, none)
            attention = Unsqueeze (flat_mask, none)
        }}
        """
    )
    node = helper.make_node(
        "BertTokenizer",
        ["text"],
        ["raw_ids", "raw_types", "raw_mask"],
        domain="ai.onnx.contrib",
        vocab_file="\n".join(words.vocab) + "\n",
        do_lower_case=1,
        do_basic_tokenize=1,
        strip_accents=1,
        tokenize_chinese_chars=1,
    )
    graph.node.insert(0, node)
    return graph
