#include <cmath>
#include <cstdio>
#include <string>

std::string plain();
std::string native();
std::string fast();

double exact_exponential(double x) { return std::exp(x); }

int main() {
  bool right = true;
  const auto check = [&](const char* flags, const std::string& wrong) {
    std::printf("%s: wrong:%s\n", flags, wrong.empty() ? " nothing" : wrong.c_str());
    right = right && wrong.empty();
  };
  check("without flags", plain());
  check("with -O3 -march=native", native());
  check("with -O3 -march=native -ffast-math", fast());
  return right ? 0 : 1;
}
