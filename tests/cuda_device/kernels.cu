// Every kernel that the library launches in float.
#include "elcrec/backend/cuda.hpp"

template class elcrec::CudaLane<float>;
template class elcrec::cuda::RowScatter<float>;
template void elcrec::CudaLane<float>::top_k<float>(const RankingRule&, In, MatrixView<const float>, Ids,
                                                    std::span<const ItemId>, Out, std::span<ItemId>, std::span<Index>);
template void elcrec::CudaLane<float>::top_k<elcrec::BFloat16>(const RankingRule&, In, MatrixView<const BFloat16>, Ids,
                                                               std::span<const ItemId>, Out, std::span<ItemId>,
                                                               std::span<Index>);
