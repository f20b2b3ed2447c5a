#include <cstdio>
#include <vector>

#include <elcrec/elcrec.hpp>

int main() {
  std::vector<float> values(6);
  elcrec::RandomEngine random(elcrec::RandomStream{.seed = 1});
  for (float& value : values) {
    value = static_cast<float>(random.uniform());
  }
  const elcrec::MatrixView<const float> matrix(values.data(), 2, 3);
  std::printf("elcrec: %td x %td, %.3f ... %.3f\n", matrix.rows(), matrix.cols(), double{matrix(0, 0)},
              double{matrix(1, 2)});
}
