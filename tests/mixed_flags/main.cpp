#include <cstdio>

bool plain();
bool native();

int main() {
  const bool plain_right = plain();
  const bool native_right = native();
  std::printf("without flags: %s; with -O3 -march=native: %s\n", plain_right ? "right" : "wrong",
              native_right ? "right" : "wrong");
  return plain_right && native_right ? 0 : 1;
}
