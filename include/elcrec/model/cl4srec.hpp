#pragma once

#include "elcrec/core/concepts.hpp"
#include "elcrec/encoder/transformer.hpp"
#include "elcrec/loss/next_item.hpp"
#include "elcrec/loss/sequence_contrast.hpp"
#include "elcrec/model/sequential_model.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// CL4SRec (Xie et al., "Contrastive Learning for Sequential Recommendation", ICDE 2022): SASRec's encoder, a next-item
/// loss, and InfoNCE between two random crops, masks or reorderings of each user's history. The contrast is that of
/// ICLRec's code: dot products of the two encodings, flattened over positions; a masked item becomes padding, and the
/// two views are drawn independently (shares 0.2, 0.7 and 0.2: set them by `view<AugmentedPair<>>().augmentation`).
///
/// What else goes by that name: DuoRec's code contrasts the encodings of the last position, draws two different
/// augmentations (0.6, 0.3, 0.6), has a mask id of its own, and takes every prefix for a sample. ICLRec's code trains
/// the next item by NextItemBce.
template <Backend B, Objective NextItem = NextItemSoftmax>
using CL4SRec = SequentialModel<TransformerEncoder<Dynamic, B>, NextItem, SequenceContrast<>>;

}  // namespace elcrec::inline ELCREC_TARGET
